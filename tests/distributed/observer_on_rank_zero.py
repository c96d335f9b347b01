"""Trains under torchrun with an observer on world rank zero alone; prints the step of each rank.

torchrun --nproc-per-node 2 tests/distributed/observer_on_rank_zero.py DIRECTORY
"""

import sys
from pathlib import Path

import torch.distributed as dist

from tbtrainer import Observer, TBTrainer, TBTrainingArguments
from tbtrainer.observers.training import Training
from tbtrainer.records import Records, Scalar
from tests.tiny import arguments, trainer


class CannotBegin(Observer):
    """Fails on world rank zero, where alone it is added."""

    def run_begins(self, step: int, training: Training) -> Records:
        raise RuntimeError("no memory")

    def step_taken(self, step: int) -> Records:
        return [Scalar("mine/not_begun", 1.0)]


class Steps(Observer):
    """Shows a number at each step."""

    def step_taken(self, step: int) -> Records:
        return [Scalar("mine/step", float(step))]


def main(directory: str) -> None:
    """Trains four steps."""
    made = trainer(TBTrainer, arguments(TBTrainingArguments, Path(directory), max_steps=4))
    if dist.get_rank() == 0:
        made.add_observer(CannotBegin())
        made.add_observer(Steps())
    made.train()
    steps = [None] * dist.get_world_size()
    dist.all_gather_object(steps, made.state.global_step)
    if dist.get_rank() == 0:
        print(steps, flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
