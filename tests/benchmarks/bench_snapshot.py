"""One snapshot of parameters and gradients: tbtrainer, `add_histogram`, wandb.watch's computation.

tbtrainer takes it twice: as it is installed, and with NumPy reading the tensors on the CPU.

The same tensors in one run, in turns; the table shows medians and ratios to tbtrainer. What
`wandb.watch` computes (wandb 0.22, `TorchHistory.log_tensor_stats`) is rebuilt from its steps:
flatten, drop what is not finite, `min`, `max`, `histc` in 64 bins, and the copy to a list.

A second table compares the targets of the histograms with each other, one target per snapshot. The
optimizer has one state. `bench_activations.py` measures those that need a forward pass.

    python tests/benchmarks/bench_snapshot.py --model minilm
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from tbtrainer.run import RunWriter
from tbtrainer.sharding import parameter_table
from tbtrainer.statistics.readers import choice
from tests.recorder import Recorder

MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "minilm": lambda: BertModel(
        BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config()),
}


def by_tbtrainer(
    model: torch.nn.Module, directory: str, device: torch.device
) -> Callable[[], None]:
    """What `TBTrainer` does at a step that is due, until the records are written."""
    table = parameter_table(model, is_world_process_zero=True)
    recorder = Recorder(table, RunWriter(directory), device)
    steps = itertools.count(1)

    def snapshot() -> None:
        step = next(steps)
        recorder.gradients(step, table.gradients())
        recorder.parameters(step)
        recorder.drain()

    return snapshot


def with_numpy(snapshot: Callable[[], None]) -> Callable[[], None]:
    """Returns a snapshot taken as in an installation without the compiled reader."""

    def by_numpy() -> None:
        with mock.patch.object(choice, "_compiled_cpu_reader", lambda: None):
            snapshot()

    return by_numpy


def by_add_histogram(model: torch.nn.Module, directory: str) -> Callable[[], None]:
    """The usual callback."""
    writer = SummaryWriter(directory)

    def snapshot() -> None:
        for name, parameter in model.named_parameters():
            writer.add_histogram(f"gradients/{name}", parameter.grad, 1)
            writer.add_histogram(f"parameters/{name}", parameter, 1)
        writer.flush()

    return snapshot


def by_wandb_watch(model: torch.nn.Module) -> Callable[[], None]:
    """The computation alone, without wandb's process and files."""

    def statistics_of(tensor: torch.Tensor) -> list[float]:
        flat = tensor.detach().reshape(-1).float()
        if not torch.isfinite(flat).all().item():
            flat = flat[torch.isfinite(flat)]
        low, high = flat.min().item(), flat.max().item()
        if low == high:
            high = low + 1e-6
        counts = flat.histc(bins=64, min=low, max=high)
        return counts.cpu().detach().tolist()

    def snapshot() -> None:
        for parameter in model.parameters():
            statistics_of(parameter.grad)
            statistics_of(parameter)

    return snapshot


class Target:
    """Takes snapshots of one target around steps that change every parameter.

    Args:
        name: One of `histogram_targets`.
        model: With gradients.
        directory: The run directory.
        device: Of the model.
    """

    def __init__(
        self, name: str, model: torch.nn.Module, directory: str, device: torch.device
    ) -> None:
        self._table = parameter_table(model, is_world_process_zero=True)
        writer = RunWriter(directory)
        self._recorder = Recorder(
            self._table, writer, device, optimizer=with_one_state(model), histogram_targets=[name]
        )
        self._model, self._device = model, device
        self._step = 0

    @torch.no_grad()
    def seconds(self) -> tuple[float, float]:
        """Returns the seconds that training waits, and those until the records are written.

        The step itself is in neither. The device's work is in both.
        """
        self._step += 1
        gradients = self._table.gradients()
        before = seconds(lambda: self._recorder.gradients(self._step, gradients), self._device)
        for parameter in self._model.parameters():
            parameter.add_(parameter.grad, alpha=-1e-3)
        after = seconds(lambda: self._recorder.parameters(self._step), self._device)
        drained = seconds(self._recorder.drain, self._device)
        return before + after, before + after + drained


def with_one_state(model: torch.nn.Module) -> torch.optim.Optimizer:
    """An optimizer with one tensor for each parameter, as SGD has after a step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.randn_like(parameter) * 1e-3
    return optimizer


def compare_targets(
    model: torch.nn.Module, directory: str, device: torch.device, repeats: int
) -> None:
    """Takes snapshots of each target in turn and prints a table."""
    targets = {
        name: Target(name, model, f"{directory}/{name}", device)
        for name in ("parameters", "gradients", "updates", "optimizer_state")
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in targets}
    for round_ in range(repeats + 1):
        for name, target in targets.items():
            taken = target.seconds()
            if round_:
                times[name].append(taken)
    medians = {
        name: [statistics.median(column) for column in zip(*values, strict=True)]
        for name, values in times.items()
    }
    print("\n| target | training waits | until written | times parameters | and until written |")
    print("|---|---|---|---|---|")
    waits_of, written_of = medians["parameters"]
    for name, (waits, written) in medians.items():
        ratios = f"{waits / waits_of:.2f} | {written / written_of:.2f}"
        print(f"| {name} | {waits:.4f} s | {written:.4f} s | {ratios} |")


def seconds(function: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Takes the snapshots in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="minilm")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--only-targets", action="store_true", help="print the second table alone")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = torch.device(options.device)
    model = MODELS[options.model]().to(device, getattr(torch, options.dtype))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    if not options.only_targets:
        compare_ways(model, device, options.model, options.repeats)
    print(f"\n{options.model}, {options.dtype}: {sum(p.numel() for p in model.parameters()):,}")
    with tempfile.TemporaryDirectory() as directory:
        compare_targets(model, directory, device, max(options.repeats, 7))


def compare_ways(model: torch.nn.Module, device: torch.device, name: str, repeats: int) -> None:
    """Takes a snapshot in each way in turn and prints a table."""
    elements = 2 * sum(parameter.numel() for parameter in model.parameters())
    tensors = 2 * sum(1 for _ in model.parameters())
    with tempfile.TemporaryDirectory() as directory:
        ways = {
            "tbtrainer": by_tbtrainer(model, f"{directory}/ours", device),
            "tbtrainer, read by NumPy": with_numpy(
                by_tbtrainer(model, f"{directory}/numpy", device)
            ),
            "add_histogram": by_add_histogram(model, f"{directory}/theirs"),
            "wandb.watch's computation": by_wandb_watch(model),
        }
        times: dict[str, list[float]] = {way_name: [] for way_name in ways}
        for round_ in range(repeats + 1):
            for way_name, way in ways.items():
                taken = seconds(way, device)
                if round_:
                    times[way_name].append(taken)
    ours = statistics.median(times["tbtrainer"])
    print(f"\n{name}: {elements:,} elements in {tensors} tensors, {device}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| snapshot by | seconds | ns per element | times tbtrainer |\n|---|---|---|---|")
    for way_name, values in times.items():
        median = statistics.median(values)
        print(
            f"| {way_name} | {median:.4f} | {median / elements * 1e9:.2f} | {median / ours:.1f} |"
        )


if __name__ == "__main__":
    main()
