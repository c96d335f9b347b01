"""What a snapshot of a large model costs on a GPU, as ratios within one run.

A Llama of 1 B parameters in bfloat16 (random weights), batch 8 x 1024, AdamW. Times are those of
CUDA events, medians of `--repeats` after a warm-up; the bandwidth is that of copying a gigabyte,
measured in the same run. `--device cpu --size toy` runs all of it without a GPU, to try the script.

    python tests/benchmarks/bench_gpu.py
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.run import RunWriter
from tbtrainer.sharding import parameter_table
from tbtrainer.statistics import TensorStatistics, measure
from tbtrainer.statistics.readers.choice import _kernel_readers
from tbtrainer.statistics.readers.reader import Reader
from tests.benchmarks.bench_snapshot import by_add_histogram, by_wandb_watch
from tests.benchmarks.bench_training import Tokens
from tests.gradients import Norms
from tests.recorder import Recorder

# Configuration, batch and length.
SIZES: dict[str, tuple[dict[str, int], int, int]] = {
    "1b": (
        {
            "vocab_size": 32_000,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 20,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
        8,
        1024,
    ),
    "toy": (
        {
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        2,
        32,
    ),
}


class Clock:
    """Milliseconds of calls: of the device's own clock where it has one.

    Args:
        device: Where the work is done.
        repeats: Calls that count, after a tenth as many to warm up.
    """

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats

    def median(self, work: Callable[[], object], repeats: int | None = None) -> float:
        """The median milliseconds of a call."""
        repeats = repeats or self.repeats
        for _ in range(max(1, repeats // 10)):
            work()
        return statistics.median(self._once(work) for _ in range(repeats))

    def _once(self, work: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            began = time.perf_counter()
            work()
            return (time.perf_counter() - began) * 1e3
        torch.cuda.synchronize()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)


def bytes_per_millisecond(clock: Clock) -> float:
    """The bandwidth at which memory is read while it is copied."""
    source = torch.empty(2**30 if clock.device.type == "cuda" else 2**24, dtype=torch.uint8)
    source = source.to(clock.device)
    target = torch.empty_like(source)
    # A copy reads and writes every byte.
    return 2 * source.numel() / clock.median(lambda: target.copy_(source))


def launches_of(work: Callable[[], object]) -> int:
    """Kernels launched by a call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


def synchronisations_of(work: Callable[[], object]) -> int:
    """How often a call waits for the device."""
    import warnings

    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        work()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in said)


class Bench:
    """The parts of the table.

    Args:
        options: Of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.clock = Clock(self.device, options.repeats)
        self.config, self.batch, self.length = SIZES[options.size]

    def model(self) -> LlamaForCausalLM:
        """The model, in bfloat16."""
        set_seed(0)
        return LlamaForCausalLM(LlamaConfig(**self.config)).to(self.device, torch.bfloat16)

    def snapshot(self, directory: str) -> None:
        """Times a snapshot and a step, and what others compute of the same tensors."""
        model = self.model()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=self.device.type == "cuda")
        generator = torch.Generator().manual_seed(0)
        size = (self.batch, self.length)
        tokens = torch.randint(0, self.config["vocab_size"], size, generator=generator)
        tokens = tokens.to(self.device)

        def step() -> None:
            model(input_ids=tokens, labels=tokens).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        step_ms = self.clock.median(step, max(3, self.options.repeats // 5))
        model(input_ids=tokens, labels=tokens).loss.backward()
        tensors = [*model.parameters(), *(p.grad for p in model.parameters())]
        read = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        read_ms = read / bytes_per_millisecond(self.clock)
        elements = sum(parameter.numel() for parameter in model.parameters())
        self.say(f"{elements:,} parameters, {len(tensors)} tensors, {read / 1e9:.2f} GB read")
        self.say(f"reading them once: {read_ms:.3f} ms; one training step: {step_ms:.1f} ms\n")

        table = parameter_table(model, is_world_process_zero=True)
        writer = RunWriter(os.path.join(directory, "ours"))
        recorder = Recorder(table, writer, self.device)
        steps = itertools.count(1)
        norms = Norms(table, "block", 1.0, device=self.device)

        def snapshot() -> None:
            step = next(steps)
            recorder.gradients(step, table.gradients())
            recorder.parameters(step)

        snapshot_ms = self.clock.median(snapshot)
        norms_ms = self.clock.median(lambda: norms.accumulate(table.gradients()))
        plain_ms = self.clock.median(lambda: measure(tensors, self.device, backend="plain"), 3)
        self.say("| figure | measured |\n|---|---|")
        self.row("snapshot over reading once", f"{snapshot_ms / read_ms:.2f}")
        self.row("snapshot, ms", f"{snapshot_ms:.3f}")
        self.row("snapshot, share of a step", f"{snapshot_ms / step_ms:.2%}")
        self.row("per-step norms, share of a step", f"{norms_ms / step_ms:.2%}")
        self.row(
            "plain PyTorch over the kernels, statistics alone", f"{plain_ms / snapshot_ms:.1f}"
        )
        if self.device.type == "cuda":
            for reader in _kernel_readers("cuda"):
                self.row(
                    f"pass by {reader.name} over reading once",
                    self.passes(reader, tensors, read_ms),
                )
            self.row("synchronisations, undue step", str(synchronisations_of(norms.accumulate)))
            self.row("synchronisations, due step", str(synchronisations_of(snapshot)))
            self.row("launches of a snapshot", str(launches_of(snapshot)))
        ways = {
            "add_histogram": by_add_histogram(model, os.path.join(directory, "theirs")),
            "wandb.watch's computation": by_wandb_watch(model),
        }
        for name, way in ways.items():
            self.row(f"{name} over the snapshot", f"{self.clock.median(way, 3) / snapshot_ms:,.0f}")
        recorder.close()

    def passes(self, reader: Reader, tensors: Sequence[torch.Tensor], read_ms: float) -> str:
        """The time of one pass with a reader, as a multiple of reading the memory once."""
        out = TensorStatistics.empty(len(tensors), tensors[0].device)
        rows = range(len(tensors))
        pass_ms = self.clock.median(lambda: reader.measure_into(out, rows, tensors, None))
        return f"{pass_ms / read_ms:.2f}"

    def training(self, directory: str) -> None:
        """Times whole trainings with the defaults, beside stock `Trainer` without reporting."""
        ways: dict[str, tuple[Any, Any]] = {
            "stock": (Trainer, TrainingArguments),
            "ours": (TBTrainer, TBTrainingArguments),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(self.options.rounds + 1):
            for name, (cls, args_cls) in ways.items():
                taken = self._seconds(cls, args_cls, os.path.join(directory, f"{name}-{round_}"))
                if round_:
                    seconds[name].append(taken)
        ratios = [b / a for a, b in zip(seconds["stock"], seconds["ours"], strict=True)]
        self.row(
            f"whole training of {self.options.steps} steps, defaults, over stock without reporting",
            f"{statistics.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f})",
        )

    def _seconds(self, cls: Any, args_cls: Any, directory: str) -> float:
        args = args_cls(
            output_dir=directory,
            max_steps=self.options.steps,
            per_device_train_batch_size=self.batch,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=self.device.type == "cpu",
        )
        rows = Tokens(self.options.steps * self.batch, self.length, self.config["vocab_size"], True)
        trainer = cls(model=self.model(), args=args, train_dataset=rows)
        began = time.perf_counter()
        trainer.train()
        return time.perf_counter() - began

    def say(self, line: str) -> None:
        """Prints a line at once."""
        print(line, flush=True)

    def row(self, figure: str, value: str) -> None:
        """Prints a row of the table."""
        self.say(f"| {figure} | {value} |")


def main() -> None:
    """Prints where it runs, and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--size", choices=sorted(SIZES), default="1b")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--steps", type=int, default=500, help="of each whole training")
    parser.add_argument("--rounds", type=int, default=3, help="of whole trainings that count")
    options = parser.parse_args()
    bench = Bench(options)
    bench.say(f"torch {torch.__version__}, {options.size}, {options.device}")
    if bench.device.type == "cuda":
        import triton

        card = torch.cuda.get_device_name()
        bench.say(f"{card}, CUDA {torch.version.cuda}, triton {triton.__version__}")
    with tempfile.TemporaryDirectory() as directory:
        bench.snapshot(directory)
        bench.training(directory)


if __name__ == "__main__":
    main()
