"""Started by torchrun on two processes: a training is to be mirrored, and no run is initialised."""

import json
import sys
from pathlib import Path

import torch.distributed as dist

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.tiny import arguments, trainer


def main(directory: str, named_on: str) -> None:
    """Prints the error of each rank. `mirror_to` is set on "all" ranks, or on the "first" alone."""
    args = arguments(TBTrainingArguments, Path(directory))
    if named_on == "all" or args.process_index == 0:
        args.mirror_to = ["wandb"]
    errors: list[str | None] = [None, None]
    try:
        trainer(TBTrainer, args).train()
    except ValueError as error:
        dist.all_gather_object(errors, str(error))
    if dist.get_rank() == 0:
        print(json.dumps(errors), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
