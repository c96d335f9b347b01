"""What measuring costs per element and per tensor, beside what people use today.

Four tables, each of ways that take turns over the same tensors in one run, with medians and ratios:
the readers of the CPU, dtypes and strides, the size of a tensor, and the number of small ones. A
fifth shows what a histogram costs on its way into an event file, and how large it is.

    python tests/benchmarks/bench_statistics.py --device cpu
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import psutil
import torch
from tensorboard.compat.proto.event_pb2 import Event
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import histogram_raw

from tbtrainer.records import Histogram
from tbtrainer.statistics import (
    SnapshotRows,
    WholeTensors,
    histograms,
    measure,
    take_snapshot,
)
from tbtrainer.statistics.readers.choice import reader_of

Tensors = Sequence[Tensor]
# `add_histogram` needs minutes for more, and several times the tensor's memory.
MOST_ELEMENTS_OF_OTHERS = 100_000_000


def wandb_watch(tensors: Tensors) -> None:
    """The steps of wandb 0.22, `TorchHistory.log_tensor_stats`, without its process and files."""
    for tensor in tensors:
        flat = tensor.reshape(-1).float()
        if not torch.isfinite(flat).all().item():
            flat = flat[torch.isfinite(flat)]
        low, high = flat.min().item(), flat.max().item()
        if low == high:
            high = low + 1e-6
        flat.histc(bins=64, min=low, max=high).cpu().tolist()


def seconds_in_turns(
    ways: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    """The median seconds of each way, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(repeats + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken) for name, taken in times.items()}


class Bench:
    """Runs the ways over tensors and prints a row for each set.

    Args:
        device: Where the tensors are.
        repeats: Rounds that count.
        directory: Where `add_histogram` writes.
    """

    def __init__(self, device: torch.device, repeats: int, directory: str) -> None:
        self.device, self.repeats = device, repeats
        self._writer = SummaryWriter(directory)

    def heading(self, subject: str) -> None:
        """Begins a table."""
        print(f"\n| {subject} | ns per element | us per tensor | add_histogram | wandb.watch |")
        print("|---|---|---|---|---|")

    def row(self, name: str, tensors: Tensors) -> None:
        """Measures one set of tensors."""
        elements = sum(tensor.numel() for tensor in tensors)
        ways: dict[str, Callable[[], object]] = {
            "tbtrainer": lambda: measure(tensors, self.device),
            "add_histogram": lambda: self._add_histograms(tensors),
            "wandb.watch": lambda: wandb_watch(tensors),
        }
        if elements > MOST_ELEMENTS_OF_OTHERS:
            ways = {"tbtrainer": ways["tbtrainer"]}
        taken = seconds_in_turns(ways, self.repeats, self.device)
        ours = taken["tbtrainer"]
        ratios = " | ".join(
            f"{taken[way] / ours:.1f} x" if way in taken else "not run"
            for way in ("add_histogram", "wandb.watch")
        )
        per_element, per_tensor = ours / elements * 1e9, ours / len(tensors) * 1e6
        print(f"| {name} | {per_element:.2f} | {per_tensor:.1f} | {ratios} |", flush=True)

    def _add_histograms(self, tensors: Tensors) -> None:
        for tensor in tensors:
            self._writer.add_histogram("a/tensor", tensor.float(), 1)


def kinds(device: torch.device, elements: int) -> dict[str, Tensors]:
    """Tensors of about the same number of elements that differ in what they hold, and how."""
    side = int(elements**0.5)
    values = torch.randn(side, side, device=device) * 0.02
    return {
        "float32": [values],
        "bfloat16": [values.bfloat16()],
        "float16": [values.half()],
        "float64": [values.double()],
        "int64": [(values * 1000).long()],
        "float32, half zeros": [values.relu()],
        "float32, transposed": [values.t()],
        "float32, every second column": [values.repeat(1, 2)[:, ::2]],
    }


def cpu_readers(repeats: int) -> None:
    """The compiled reader beside NumPy's and beside `torch.sum`, which reads the same memory."""
    cpu = torch.device("cpu")
    name = reader_of(torch.ones(1), "auto").name
    print(f"\n| tensor | {name}, ns per element | NumPy | torch.sum | NumPy to {name} |")
    print("|---|---|---|---|---|")
    cases = [(elements, torch.float32) for elements in (100_000, 1_000_000, 20_000_000)]
    cases += [(1_000_000, dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64)]
    for elements, dtype in cases:
        tensor = (torch.randn(elements) * 0.02).to(dtype)
        ways: dict[str, Callable[[], object]] = {
            "auto": lambda tensor=tensor: measure([tensor], cpu),
            "plain": lambda tensor=tensor: measure([tensor], cpu, backend="plain"),
            "sum": tensor.sum,
        }
        taken = seconds_in_turns(ways, repeats, cpu)
        per_element = " | ".join(f"{taken[way] / elements * 1e9:.2f}" for way in ways)
        ratio = taken["plain"] / taken["auto"]
        print(f"| {elements:,} {dtype} | {per_element} | {ratio:.1f} x |", flush=True)


def memory(elements: int) -> None:
    """The most memory a pass takes beside the tensor, as the operating system counts it.

    Called first: what the process has ever taken is all that the system knows.
    """
    tensor = torch.empty(elements).normal_()
    before = psutil.Process().memory_info().rss
    measure([tensor], torch.device("cpu"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{(most - before) / 2**20:.0f} MiB beside a tensor of {tensor.nbytes / 2**20:,.0f} MiB")


def merging(device: torch.device, repeats: int) -> None:
    """What becomes of the statistics on the host, for tensors with and without a linear pass.

    The time is that of the thread, of one tensor of a snapshot of 300.
    """
    print("\n| histograms of | us per tensor | buckets | bytes per event |\n|---|---|---|---|")
    scales = (0.02,), (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0)
    for name, size, of in (
        ("768 elements", 768, scales[0]),
        ("768 elements, half zeros", 768, scales[0]),
        ("100,000 elements", 100_000, scales[0]),
        ("100,000 elements, of seven scales", 100_000, scales[1]),
    ):
        tensors = [torch.randn(size, device=device) * of[row % len(of)] for row in range(300)]
        if "zeros" in name:
            tensors = [tensor.relu() for tensor in tensors]
        rows = SnapshotRows.of([str(row) for row in range(300)], [size] * 300, device)
        snapshot = take_snapshot(lambda parts=tensors: parts, rows, WholeTensors())
        on_host = snapshot.to_host().wait()
        taken = []
        for _ in range(repeats + 1):
            began = time.thread_time()
            merged = histograms(on_host, 64)
            taken.append((time.thread_time() - began) / len(tensors) * 1e6)
        sizes = [event_bytes(histogram) for histogram in merged if histogram is not None]
        buckets = max(len(h.bucket_counts) for h in merged if h is not None)
        per_tensor = statistics.median(taken[1:])
        print(f"| {name} | {per_tensor:.1f} | {buckets} | {int(np.max(sizes))} |", flush=True)


def event_bytes(histogram: Histogram) -> int:
    """The size of the record's payload, under a name of usual length."""
    tag = "gradients/bert.encoder.layer.11.attention.self.query.weight"
    summary = histogram_raw(tag, **histogram.raw_fields())
    return len(Event(wall_time=1e9, step=1000, summary=summary).SerializeToString())


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--elements", type=int, default=4_000_000, help="of the larger tensors")
    parser.add_argument("--most-elements", type=int, default=1_000_000_000, help="in the sizes")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads")
    if device.type == "cpu":
        memory(options.most_elements)
        # Many rounds: one takes a millisecond, and another program may take longer than that.
        cpu_readers(4 * options.repeats)
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(device, options.repeats, directory)
        bench.heading("one tensor of")
        for name, tensors in kinds(device, options.elements).items():
            bench.row(name, tensors)
        bench.heading("one float32 tensor of this many elements")
        elements = 1_000_000
        while elements <= options.most_elements:
            bench.row(f"{elements:,}", [torch.randn(elements, device=device).mul_(0.02)])
            elements *= 10
        bench.heading("this many float32 tensors of 100 elements")
        for number in (10, 100, 1000, 10_000):
            bench.row(f"{number:,}", [torch.randn(100, device=device) for _ in range(number)])
    merging(device, options.repeats)


if __name__ == "__main__":
    main()
