"""Trains a language model under torchrun with a slow data loader on rank 1.

torchrun --nproc-per-node 2 tests/distributed/slow_rank.py DIRECTORY [fail]

With `fail`, reading the time raises an error on rank 1. Prints whether all ranks averaged their
tokens, and how many optimizer steps each has taken.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import GPT2Config, GPT2LMHeadModel, default_data_collator, set_seed

from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.observers.step_times import StepTimes
from tests.tiny import LENGTH, VOCABULARY, Sequences, arguments

SLEEP_SECONDS = 0.5
ROWS = 4


def collated(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns a batch, after a while on rank 1. A quarter of the tokens is padding."""
    if dist.get_rank() == 1:
        time.sleep(SLEEP_SECONDS)
    batch = default_data_collator(rows)
    batch["attention_mask"][:, -LENGTH // 4 :] = 0
    # The trainer counts the labels of all ranks before a step, so each waits for the slow one.
    return {**batch, "labels": batch["input_ids"].clone()}


def main(directory: str, *options: str) -> None:
    """Trains eight steps."""
    if "fail" in options and dist.get_rank() == 1:
        StepTimes.take = lambda self: 1 / 0  # type: ignore[assignment, return-value]
    set_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=16, n_layer=1, n_head=2)
    made = TBTrainer(
        model=GPT2LMHeadModel(config),
        args=arguments(
            TBTrainingArguments,
            Path(directory),
            logging_dir=str(Path(directory) / "run"),
            per_device_train_batch_size=ROWS,
            max_steps=8,
            logging_steps=4,
        ),
        train_dataset=Sequences(128),
        data_collator=collated,
    )
    counts = []
    count = made._get_num_items_in_batch
    made._get_num_items_in_batch = lambda *a, **k: counts.append(count(*a, **k)) or counts[-1]
    made.train()
    steps: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(steps, made.state.global_step)
    verdict = {"averages": made.args.average_tokens_across_devices, "steps": steps}
    if dist.get_rank() == 0:
        print(json.dumps({**verdict, "items": float(counts[0])}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    dist.init_process_group("gloo")
    main(*sys.argv[1:])
