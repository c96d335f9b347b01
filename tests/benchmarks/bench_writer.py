"""CPU time and bytes per record: tbtrainer's event file beside torch's `SummaryWriter`, in one run.

python tests/benchmarks/bench_writer.py
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from tbtrainer.run import RunWriter

VALUES = np.random.default_rng(0).normal(size=10_000)
LIMITS, COUNTS = np.linspace(-4, 4, 64), np.ones(64)


def a_scalar(writer: SummaryWriter, step: int) -> None:
    """One scalar."""
    writer.add_scalar("train/loss", step, step)


def a_stock_histogram(writer: SummaryWriter, step: int) -> None:
    """One histogram in TensorBoard's default bins."""
    writer.add_histogram("weights", VALUES, step)


def our_histogram(writer: SummaryWriter, step: int) -> None:
    """One histogram of 64 buckets, already counted, as `TBTrainer` writes it."""
    writer.add_histogram_raw("weights", -4, 4, 64, 0, 64, LIMITS, COUNTS, step)


def cost(
    make: Callable[[str], SummaryWriter], add: Callable[[SummaryWriter, int], None], records: int
) -> tuple[float, float]:
    """CPU microseconds and bytes per record, writing included."""
    with tempfile.TemporaryDirectory() as directory:
        writer = make(directory)
        add(writer, 0)
        began = time.process_time()
        for step in range(records):
            add(writer, step)
        writer.close()
        spent = time.process_time() - began
        size = sum(path.stat().st_size for path in Path(directory).iterdir())
    return spent / records * 1e6, size / (records + 1)


def main() -> None:
    """Writes the records in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    ways = {
        "scalar, SummaryWriter": (SummaryWriter, a_scalar),
        "scalar, tbtrainer": (RunWriter, a_scalar),
        "histogram, SummaryWriter": (SummaryWriter, a_stock_histogram),
        "histogram record alone, SummaryWriter": (SummaryWriter, our_histogram),
        "histogram record alone, tbtrainer": (RunWriter, our_histogram),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, (make, add) in ways.items():
            found[name].append(cost(make, add, options.records))
    print("\n| record | CPU microseconds | bytes |\n|---|---|---|")
    for name, pairs in found.items():
        spent, size = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"| {name} | {spent:.1f} | {size:.0f} |")


if __name__ == "__main__":
    main()
