"""Time and memory of reading event files: `read_run` beside TensorBoard's loader and tbparse.

python tests/benchmarks/bench_reading.py

Every reading is a process of its own, so that its peak of memory is its own: on Linux only. The
seconds and the memory do not include the start of the process and its imports.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

from tbtrainer.event_file.records import file_header, framed

NAME = "events.out.tfevents.1700000000.host.1-0"
SCALAR_TAGS = 20
BUCKETS = 64
# Records that are made one by one; more are made by repeating them.
BLOCK = 1_000_000


# ---- Files ----


def write_scalars(directory: Path, records: int) -> None:
    """Writes an event file of scalars under `SCALAR_TAGS` tags."""
    values = [
        Summary.Value(tag=f"train/metric_{number}", simple_value=0.0)
        for number in range(SCALAR_TAGS)
    ]
    with open(directory / NAME, "wb") as file:
        file.write(file_header(0))
        made = []
        for record in range(min(records, BLOCK)):
            step, number = divmod(record, SCALAR_TAGS)
            values[number].simple_value = record % 1000 / 7
            event = Event(
                step=step, wall_time=1.7e9 + step, summary=Summary(value=[values[number]])
            )
            made.append(framed(event.SerializeToString()))
        block = b"".join(made)
        for _ in range(max(1, records // BLOCK)):
            file.write(block)


def write_histograms(directory: Path, tags: int, steps: int) -> None:
    """Writes an event file of histograms as `TBTrainer` does: `BUCKETS` buckets each."""
    generator = np.random.default_rng(0)
    with open(directory / NAME, "wb") as file:
        file.write(file_header(0))
        for step in range(steps):
            for tag in range(tags):
                limits = np.sort(generator.standard_normal(BUCKETS))
                counts = generator.integers(0, 1000, BUCKETS).astype(float)
                histogram = HistogramProto(
                    min=limits[0] - 1,
                    max=limits[-1],
                    num=counts.sum(),
                    sum=1.0,
                    sum_squares=counts.sum(),
                    bucket_limit=limits,
                    bucket=counts,
                )
                value = Summary.Value(tag=f"parameters/layers.{tag}.weight", histo=histogram)
                event = Event(step=step, wall_time=1.7e9 + step, summary=Summary(value=[value]))
                file.write(framed(event.SerializeToString()))


# ---- Ways to read ----


def frame(kind: str) -> Callable[[str], int]:
    """`read_run(...).scalars` or `.histograms`, with the compiled scanner."""
    import pandas  # noqa: F401

    from tbtrainer import read_run

    return lambda directory: len(getattr(read_run(directory), kind))


def portable_frame(kind: str) -> Callable[[str], int]:
    """Returns what makes a frame of a run without the compiled scanner, and counts its rows."""
    from tbtrainer.reading import scanner

    scanner.load_library = lambda: None  # type: ignore[assignment]
    return frame(kind)


def passes(kind: str) -> Callable[[str], int]:
    """`tags()`, then every value in chunks, or one by one: what needs bounded memory."""
    from tbtrainer import read_run

    def read(directory: str) -> int:
        run = read_run(directory)
        run.tags()
        if kind == "scalars":
            return sum(map(len, run.scalar_chunks()))
        return sum(1 for _ in run.iter_records())

    return read


def accumulator(kind: str) -> Callable[[str], int]:
    """TensorBoard's `EventAccumulator`, which keeps all values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(directory: str) -> int:
        loader = EventAccumulator(directory, size_guidance={"scalars": 0, "histograms": 0}).Reload()
        tags = loader.Tags()[kind]
        ask = loader.Scalars if kind == "scalars" else loader.Histograms
        return sum(len(ask(tag)) for tag in tags)

    return read


def parsed(kind: str) -> Callable[[str], int]:
    """Tbparse's `SummaryReader`."""
    from tbparse import SummaryReader

    return lambda directory: len(
        getattr(SummaryReader(directory, event_types={kind}, extra_columns={"wall_time"}), kind)
    )


WAYS = {
    "read_run": frame,
    "read_run without a C compiler": portable_frame,
    "read_run in bounded memory": passes,
    "EventAccumulator": accumulator,
    "tbparse": parsed,
}


def measure(way: str, kind: str, directory: str) -> None:
    """Reads once, in this process, and prints what it took."""
    read = WAYS[way](kind)
    before = reset_peak()
    began = time.perf_counter()
    values = read(directory)
    spent = time.perf_counter() - began
    peak = kibibytes("VmHWM") - before
    print(json.dumps({"seconds": spent, "mebibytes": peak / 1024, "values": values}))


def reset_peak() -> int:
    """Makes the kernel forget the peak of memory of this process; returns its memory in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return kibibytes("VmRSS")


def kibibytes(name: str) -> int:
    """A figure of the memory of this process, as Linux gives it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measured(way: str, kind: str, directory: Path) -> dict[str, float]:
    """Reads once in a new process."""
    command = [sys.executable, __file__, "--measure", way, kind, str(directory)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(title: str, kind: str, directory: Path, ways: list[str], repeats: int) -> None:
    """Reads in turns and prints the table."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            found[way].append(measured(way, kind, directory))
    size = (directory / NAME).stat().st_size / 2**20
    counts = {run["values"] for runs in found.values() for run in runs}
    print(f"\n{title}: {size:.0f} MiB, values found {sorted(counts)}\n")
    print("| read by | seconds | times `read_run` | MiB of memory |\n|---|---|---|---|")
    first = statistics.median(run["seconds"] for run in found[ways[0]])
    for way, runs in found.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        memory = statistics.median(run["mebibytes"] for run in runs)
        print(f"| {way} | {seconds:.2f} | {seconds / first:.1f} | {memory:.0f} |", flush=True)


def main() -> None:
    """Writes the files, reads them in every way and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scalars", type=int, default=1_000_000)
    parser.add_argument("--many", type=int, default=10_000_000, help="scalars of the long file")
    parser.add_argument("--tags", type=int, default=300, help="tags of histograms")
    parser.add_argument("--steps", type=int, default=500, help="histograms of each tag")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    ways = [way for way in WAYS if way != "tbparse" or importlib.util.find_spec("tbparse")]
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / name for name in ("scalars", "histograms", "many")]
        for folder in folders:
            folder.mkdir()
        write_scalars(folders[0], options.scalars)
        title = f"{options.scalars:,} scalars of {SCALAR_TAGS} tags"
        compare(title, "scalars", folders[0], ways, options.repeats)
        write_histograms(folders[1], options.tags, options.steps)
        title = f"{options.tags} tags × {options.steps} histograms of {BUCKETS} buckets"
        compare(title, "histograms", folders[1], ways, options.repeats)
        write_scalars(folders[2], options.many)
        ours = ["read_run", "read_run in bounded memory"]
        compare(f"{options.many:,} scalars", "scalars", folders[2], ours, 1)


if __name__ == "__main__":
    main()
