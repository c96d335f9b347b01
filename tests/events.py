"""Event files and files of JSON lines read back, record by record."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary


def json_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines, in the order written."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def event_files(directory: Path) -> list[Path]:
    """All event files below a directory, by name."""
    return sorted(Path(directory).rglob("*tfevents*"))


def date_back(directory: Path) -> None:
    """Renames the event files in a directory, so that loaders read them before all later ones.

    Two stock writers that begin in one second are ordered by the digits of a counter: 10 before 9.
    """
    for file in directory.glob("events.out.tfevents.*"):
        file.rename(file.with_name(file.name.replace("tfevents.", "tfevents.0", 1)))


def events(file: Path) -> Iterator[Event]:
    """The events of a file, in the order written."""
    for record in RawEventFileLoader(str(file)).Load():
        yield Event.FromString(record)


def values(file: Path) -> Iterator[tuple[int, Summary.Value]]:
    """Step and value of everything in a file, in the order written."""
    for event in events(file):
        for value in event.summary.value:
            yield event.step, value


def scalars(file: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of every scalar."""
    return [
        (value.tag, step, value.simple_value)
        for step, value in values(file)
        if value.WhichOneof("value") == "simple_value"
    ]


def steps_in(directory: Path, tag: str | None = None) -> list[int]:
    """Steps of every scalar below a directory, or of those with a tag, in the order read."""
    found = [scalars(file) for file in event_files(directory)]
    return [step for file in found for name, step, _ in file if tag in (None, name)]


def texts(file: Path) -> list[tuple[str, int]]:
    """Tag and step of every text."""
    return [
        (value.tag, step)
        for step, value in values(file)
        if value.metadata.plugin_data.plugin_name == "text"
    ]


def text(file: Path, tag: str) -> str:
    """The first text under a tag."""
    return next(
        v.tensor.string_val[0].decode() for _, v in values(file) if v.tag == tag and v.tensor
    )


def histograms(file: Path) -> dict[tuple[str, int], "Histogram"]:
    """Every histogram by tag and step."""
    return {
        (value.tag, step): Histogram(value.histo)
        for step, value in values(file)
        if value.WhichOneof("value") == "histo"
    }


class Histogram:
    """A histogram event as numbers.

    Args:
        proto: As it was read from an event file.
    """

    def __init__(self, proto: HistogramProto) -> None:
        self.minimum, self.maximum = proto.min, proto.max
        self.count, self.sum, self.sum_of_squares = proto.num, proto.sum, proto.sum_squares
        self.limits = np.array(proto.bucket_limit)
        self.counts = np.array(proto.bucket)
