"""What TensorBoard shows of runs: through EventAccumulator, and through both of its servers."""

import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.events import event_files
from tests.tensorboard_server import TensorBoardServer, tensorboard

LOADERS = ["EventAccumulator", "load_fast=false", "load_fast=true"]
# A server needs some seconds to read everything, on a machine under load more.
_LOADED_SECONDS = 60.0


class Loader(Protocol):
    """One of the ways in which TensorBoard reads event files."""

    def steps(self, run: str, tag: str, expected: set[int]) -> set[int]:
        """Returns the steps of a scalar that are shown in a run and in those below it.

        Args:
            run: Path below the directory that was loaded.
            tag: The scalar.
            expected: What is shown once everything has been read.
        """


class _Accumulator:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def steps(self, run: str, tag: str, expected: set[int]) -> set[int]:
        shown: set[int] = set()
        for folder in {file.parent for file in event_files(self._directory / run)}:
            read = EventAccumulator(str(folder)).Reload()
            if tag in read.Tags()["scalars"]:
                shown |= {event.step for event in read.Scalars(tag)}
        return shown


class _Server:
    def __init__(self, server: TensorBoardServer) -> None:
        self._server = server
        self._loaded_until = time.monotonic() + _LOADED_SECONDS

    def steps(self, run: str, tag: str, expected: set[int]) -> set[int]:
        while not (shown := self._shown(run, tag)) >= expected and self._is_loading():
            time.sleep(0.5)
        return shown

    def _is_loading(self) -> bool:
        return time.monotonic() < self._loaded_until

    def _shown(self, run: str, tag: str) -> set[int]:
        shown: set[int] = set()
        for name, tags in self._server.ask("plugin/scalars/tags").items():
            if tag in tags and (name == run or name.startswith(f"{run}/")):
                try:
                    points = self._server.ask("plugin/scalars/scalars", run=name, tag=tag)
                except urllib.error.HTTPError:
                    continue  # It is being read at this moment.
                shown |= {step for _, step, _ in points}
        return shown


@contextmanager
def loading(directory: Path, loader: str) -> Iterator[Loader]:
    """Reads a directory through one of `LOADERS`."""
    if loader == "EventAccumulator":
        yield _Accumulator(directory)
    else:
        with tensorboard(directory, load_fast=loader == "load_fast=true") as server:
            yield _Server(server)
