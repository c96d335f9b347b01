"""Started by torchrun on two processes: one rank cannot describe its training."""

import json
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.observers import training
from tests.distributed.fsdp_on_cpu import allow_fsdp_on_cpu
from tests.distributed.training_modes import changes_of
from tests.tiny import arguments, trainer

allow_fsdp_on_cpu()


def broken(*_: Any) -> Any:
    """Stands for a data loader whose length raises."""
    raise RuntimeError("no length")


def main(directory: str, mode: str, place: str) -> None:
    """Trains with a description that fails on rank one: at a function of the module, or before."""
    args = arguments(TBTrainingArguments, Path(directory), histogram_steps=5, **changes_of(mode))
    made = trainer(TBTrainer, args)
    if args.process_index == 1:
        setattr(training, place, broken)
    made.train()
    if dist.get_rank() == 0:
        print(json.dumps({"step": made.state.global_step}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
