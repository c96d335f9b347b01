"""Host time that a training step spends in tbtrainer when it is neither a logging nor a due step.

All built-in observers are called as in a training: data requested and received, forward pass,
micro-batch, gradients, step. The tensors are small, so that reading them costs little: what is left
is the time of Python and of PyTorch's dispatcher, which an accelerator would not hide.

    PYTHONPATH=. python tests/benchmarks/bench_steps.py
"""

import argparse
import statistics
import tempfile
import time
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from tbtrainer import TensorBoardArguments
from tbtrainer.telemetry import Telemetry

GOAL = "1 µs per parameter and 100 µs"
SIZES = ((16,), (4, 8), (64,), (8, 16))


class Loop:
    """What tbtrainer asks a `Trainer` for during a step, without a training."""

    is_deepspeed_enabled = False

    def __init__(self, count: int, directory: str) -> None:
        self.model = self.model_wrapped = nn.ParameterList(
            nn.Parameter(torch.randn(SIZES[number % len(SIZES)])) for number in range(count)
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


def seconds_per_step(count: int, steps: int) -> tuple[float, float]:
    """Returns the median time of a step with tbtrainer, and the time of the empty loop alone."""
    with tempfile.TemporaryDirectory() as directory:
        loop = Loop(count, directory)
        alone = _timed(lambda: _step(loop), steps)
        telemetry = Telemetry(loop, TensorBoardArguments(histogram_strategy="no"))

        def observed() -> None:
            _step(loop)
            loop.state.global_step += 1
            telemetry.steps.step_taken()

        with telemetry.steps.outermost_observed():
            _timed(observed, 5)
            return _timed(observed, steps), alone


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
    print("| parameters | a step of tbtrainer | goal | get_total_norm | ratio to it |")
    print("|---|---|---|---|---|")
    for count in options.counts:
        observed, alone = seconds_per_step(count, options.steps)
        gradients = [torch.randn(SIZES[number % len(SIZES)]) for number in range(count)]
        total = _timed(lambda g=gradients: torch.nn.utils.get_total_norm(g), options.steps)
        own = observed - alone
        goal = count * 1e-6 + 100e-6
        print(
            f"| {count:,} | {1e3 * own:.3f} ms | {1e3 * goal:.3f} ms | {1e3 * total:.3f} ms "
            f"| {own / total:.2f} |"
        )


if __name__ == "__main__":
    main()
