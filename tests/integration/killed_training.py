"""A training that is sent a signal by itself at step 6: `python -m … RUN_DIRECTORY SIGNAL`."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.limits import HANG_SECONDS
from tests.tiny import arguments, trainer


class Signals(TrainerCallback):
    """Sends a signal to this process after step 6, when all records are in the file."""

    def __init__(self, name: str) -> None:
        self.number = signal.Signals[name]
        self.trainer: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 6:
            self.trainer.writer.flush(HANG_SECONDS)
            os.kill(os.getpid(), self.number)


def main(directory: str, name: str) -> None:
    """Trains until the signal ends the process."""
    run = Path(directory)
    args = arguments(TBTrainingArguments, run.parent / "out" / run.name, logging_dir=directory)
    signals = Signals(name)
    signals.trainer = trainer(TBTrainer, args, callbacks=[signals])
    signals.trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
