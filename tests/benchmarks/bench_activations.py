"""What a snapshot of activations adds to a training step: the outputs of the blocks of MiniLM.

One training step, forward and backward pass, optimizer step and the records written, with different
targets at each step. The targets take turns in one process; the table shows medians.

    python tests/benchmarks/bench_activations.py --batch 16 --length 128
"""

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback

from tbtrainer import TBTrainer, TBTrainingArguments

BOTH = ["activations", "activation_gradients"]
TARGETS: dict[str, list[str]] = {
    "parameters, gradients": ["parameters", "gradients"],
    "and activations": ["parameters", "gradients", "activations"],
    "and activation_gradients": ["parameters", "gradients", *BOTH],
    "activations alone": ["activations"],
    "no snapshot": [],
}


class Tokens(Dataset):
    """Random tokens. A quarter of the positions of every second sequence is padding."""

    def __init__(self, rows: int, length: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(0, 30_000, (rows, length), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        mask = torch.ones(self.ids.shape[1], dtype=torch.int64)
        mask[len(mask) - len(mask) // 4 * (index % 2) :] = 0
        return {"input_ids": self.ids[index], "attention_mask": mask, "labels": index % 2}


class StepTimes(TrainerCallback):
    """Times whole steps, from the beginning of one to that of the next."""

    def __init__(self) -> None:
        self.began: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Takes the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.began.append(time.perf_counter())

    def median(self) -> float:
        """The median of the steps, without the first one."""
        pairs = zip(self.began[1:], self.began[2:], strict=False)
        return statistics.median(after - before for before, after in pairs)


def step_seconds(model: torch.nn.Module, data: Dataset, options: Any, targets: list[str]) -> float:
    """Trains some steps with a snapshot of the targets at each of them."""
    shown = {"histogram_targets": targets} if targets else {"histogram_strategy": "no"}
    with tempfile.TemporaryDirectory() as directory:
        args = TBTrainingArguments(
            output_dir=directory,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch,
            logging_steps=1000,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            histogram_steps=1,
            **shown,
        )
        times = StepTimes()
        TBTrainer(model=model, args=args, train_dataset=data, callbacks=[times]).train()
    return times.median()


def main() -> None:
    """Takes turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    model = BertForSequenceClassification(
        BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
    )
    data = Tokens(options.batch * options.steps, options.length)
    found: dict[str, list[float]] = {name: [] for name in TARGETS}
    for _ in range(options.repeats):
        for name, targets in TARGETS.items():
            found[name].append(step_seconds(model, data, options, targets))
    base = statistics.median(found["parameters, gradients"])
    print("| targets at every step | step | as a multiple |\n|---|---|---|")
    for name, times in found.items():
        median = statistics.median(times)
        spread = f"{min(times) / base:.2f} to {max(times) / base:.2f}"
        print(f"| {name} | {median:.3f} s | {median / base:.2f} ({spread}) |")


if __name__ == "__main__":
    main()
