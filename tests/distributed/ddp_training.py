"""Started by torchrun: one training with `Trainer` and with `TBTrainer`, compared on each rank.

Rank zero prints one JSON verdict.
"""

import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.tiny import arguments, trainer

CHANGES = {
    "eval_strategy": "steps",
    "eval_steps": 5,
    "save_strategy": "steps",
    "save_steps": 5,
    "gradient_accumulation_steps": 2,
}
SHOWN = {"histogram_steps": 2, "norm_detail": "parameter", "telemetry_errors": "raise"}


def state_of(made) -> dict:
    """Everything that a training leaves behind on this rank."""
    return {
        "weights": made.model.state_dict(),
        "optimizer": made.optimizer.state_dict()["state"],
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "history": [
            {k: v for k, v in entry.items() if not k.endswith(("runtime", "per_second"))}
            for entry in made.state.log_history
        ],
    }


def equal(left, right) -> bool:
    """Bit-equality of nested states."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[k], right[k]) for k in left)
    return left == right


def main(directory: str) -> None:
    """Trains twice and prints the verdict."""
    # Every node of a group has its own output directory, as on machines without a shared disk.
    output = Path(directory) / f"node-{os.environ['GROUP_RANK']}"
    stock = trainer(Trainer, arguments(TrainingArguments, output / "stock", **CHANGES))
    stock.train()
    expected = state_of(stock)
    ours = trainer(TBTrainer, arguments(TBTrainingArguments, output / "ours", **CHANGES, **SHOWN))
    writer = type(ours.writer).__name__
    ours.train()
    actual = state_of(ours)
    ours.evaluate()
    verdict = {
        "rank": dist.get_rank(),
        "distributed_type": str(ours.accelerator.distributed_type),
        "wrapped_in_ddp": isinstance(ours.model_wrapped, DistributedDataParallel),
        "should_log": ours.args.should_log,
        "writer": writer,
        "equal": {key: equal(value, actual[key]) for key, value in expected.items()},
    }
    verdicts = [None] * dist.get_world_size()
    dist.all_gather_object(verdicts, verdict)
    if dist.get_rank() == 0:
        print(json.dumps(verdicts), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
