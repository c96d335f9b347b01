"""A training whose wandb is lost at its fourth step.

    python -m tests.trackers.lost_wandb killed|hung|finished

The process of wandb is killed or stopped, or the program ends the run. Trains and prints as
`mirrored.py` does.
"""

import os
import sys
from typing import Any

import psutil
import wandb

from tbtrainer import Observer
from tests.trackers.mirrored import report, training


class Loss(Observer):
    """Loses wandb."""

    def __init__(self, what: str, service: list[psutil.Process]) -> None:
        self._what = what
        self._service = service

    def step_taken(self, step: int) -> Any:
        if step == 4 and self._what == "finished":
            wandb.finish()
        elif step == 4:
            for process in self._service:
                (process.kill if self._what == "killed" else process.suspend)()


def main(what: str) -> None:
    wandb.init(project="tbtrainer")
    # wandb-core, and its process that reads the hardware.
    service = psutil.Process().children(recursive=True)
    trainer = training("wandb", "init")
    trainer.add_observer(Loss(what, service))
    trainer.train()
    trainer.evaluate()
    report(trainer)
    sys.stdout.flush()
    for process in service:
        if process.is_running():
            process.kill()
    # Without wandb's own end, which waits for its process.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
