"""One snapshot of parameters and gradients: tbtrainer, `add_histogram`, wandb.watch's computation.

tbtrainer takes it twice: as it is installed, and with NumPy reading the tensors on the CPU.

The same tensors in one run, in turns; the table shows medians and ratios to tbtrainer. What
`wandb.watch` computes (wandb 0.22, `TorchHistory.log_tensor_stats`) is rebuilt from its steps:
flatten, drop what is not finite, `min`, `max`, `histc` in 64 bins, and the copy to a list.

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
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = torch.device(options.device)
    model = MODELS[options.model]().to(device)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
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
        times: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(options.repeats + 1):
            for name, way in ways.items():
                taken = seconds(way, device)
                if round_:
                    times[name].append(taken)
    ours = statistics.median(times["tbtrainer"])
    print(f"\n{options.model}: {elements:,} elements in {tensors} tensors, {device}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| snapshot by | seconds | ns per element | times tbtrainer |\n|---|---|---|---|")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.4f} | {median / elements * 1e9:.2f} | {median / ours:.1f} |")


if __name__ == "__main__":
    main()
