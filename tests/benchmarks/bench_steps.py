"""Host time that training steps spend in tbtrainer: those that log, and those that do not.

All built-in observers are called as in a training: data requested and received, forward pass,
micro-batch, gradients, step. The tensors are small, so that reading them costs little: what is left
is the time of Python and of PyTorch's dispatcher, which an accelerator would not hide.

    PYTHONPATH=. python tests/benchmarks/bench_steps.py
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from tbtrainer import TensorBoardArguments
from tbtrainer.telemetry import Telemetry

GOAL = "1 µs per parameter and 100 µs"
ENTRY = {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 1e-4, "epoch": 0.5}
# Parameters of a block, about as many as a layer of a transformer has.
BLOCK = 16
SIZES = ((16,), (4, 8), (64,), (8, 16))


class Loop:
    """What tbtrainer asks a `Trainer` for during a step, without a training."""

    is_deepspeed_enabled = False

    def __init__(self, count: int, directory: str) -> None:
        parameters = [nn.Parameter(torch.randn(SIZES[n % len(SIZES)])) for n in range(count)]
        blocks = [parameters[begin : begin + BLOCK] for begin in range(0, count, BLOCK)]
        self.model = self.model_wrapped = nn.ModuleDict(
            {"layers": nn.ModuleList(map(nn.ParameterList, blocks))}
        )
        for parameter in self.model.parameters():
            parameter.grad = torch.randn_like(parameter)
        self.state = SimpleNamespace(global_step=0, max_steps=10**9, log_history=[])
        self.control = SimpleNamespace(should_log=False, should_training_stop=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.accelerator = SimpleNamespace(sync_gradients=True, optimizer_step_was_skipped=False)
        self.callback_handler = SimpleNamespace(train_dataloader=None, callbacks=[])
        self.args = TrainingArguments(output_dir=directory, report_to="none", use_cpu=True)
        self.loss = torch.zeros(())
        self.batches = [{"input_ids": torch.zeros(4, 16, dtype=torch.int64)}]

    def is_world_process_zero(self) -> bool:
        return True

    def get_batch_samples(self) -> tuple[Any, None]:
        return self.batches, None

    def compute_loss(self, model: Any) -> Tensor:
        return self.loss

    def training_step(self, model: Any) -> Tensor:
        return self.compute_loss(model)


@dataclass(frozen=True)
class Cost:
    """Medians in seconds.

    Attributes:
        step: What a step that is neither a logging nor a due step spends in tbtrainer.
        logging_step: What a logging step spends in it, with its log entry and the flush.
        stock: What `TensorBoardCallback` spends on the same log entry.
    """

    step: float
    logging_step: float
    stock: float


def cost_of(count: int, steps: int) -> Cost:
    """Measures the cost for a model of so many parameters."""
    with tempfile.TemporaryDirectory() as directory:
        loop = Loop(count, directory)
        alone = _timed(lambda: _step(loop), steps)
        telemetry = Telemetry(loop, TensorBoardArguments(histogram_strategy="no"))

        def observed() -> None:
            _step(loop)
            loop.state.global_step += 1
            telemetry.steps.step_taken()

        def logged() -> None:
            loop.control.should_log = True
            observed()
            with telemetry.entries_logged(ENTRY):
                loop.state.log_history.append({**ENTRY, "step": loop.state.global_step})
            loop.control.should_log = False

        with telemetry.training(), telemetry.steps.outermost_observed():
            _timed(logged, 5)
            step = _timed(observed, steps) - alone
            logging_step = _timed(logged, steps) - alone
        return Cost(step, logging_step, _stock_seconds(loop, directory, steps))


def _stock_seconds(loop: Loop, directory: str, repeats: int) -> float:
    writer = SummaryWriter(directory)
    callback = TensorBoardCallback(writer)
    state = TrainerState(is_world_process_zero=True)

    def log() -> None:
        state.global_step += 1
        callback.on_log(loop.args, state, None, logs=dict(ENTRY))

    seconds = _timed(log, repeats)
    writer.close()
    return seconds


def _step(loop: Loop) -> None:
    loop.get_batch_samples()
    loop.training_step(loop.model)


def _timed(work: Any, repeats: int) -> float:
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--counts", type=int, nargs="+", default=[62, 300, 1000, 10_000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"host time per step, goal: {GOAL}")
    print(
        "| parameters | a step | goal | get_total_norm | ratio to it | a logging step "
        "| TensorBoardCallback |"
    )
    print("|---|---|---|---|---|---|---|")
    for count in options.counts:
        cost = cost_of(count, options.steps)
        gradients = [torch.randn(SIZES[number % len(SIZES)]) for number in range(count)]
        total = _timed(lambda g=gradients: torch.nn.utils.get_total_norm(g), options.steps)
        print(
            f"| {count:,} | {1e3 * cost.step:.3f} ms | {count * 1e-3 + 0.1:.3f} ms "
            f"| {1e3 * total:.3f} ms | {cost.step / total:.2f} "
            f"| {1e3 * cost.logging_step:.2f} ms | {1e3 * cost.stock:.2f} ms |"
        )


if __name__ == "__main__":
    main()
