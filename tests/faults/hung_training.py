"""A training whose run directory hangs, in a process of its own.

    hung_training.py RUN OUTPUT SERVER HANG_STEP ANSWER_STEP END

The file system of RUN hangs after step HANG_STEP and answers after step ANSWER_STEP (0: never).
END says what happens then: "answer" lets it answer after the training, and waits until everything
is written; "exit" ends the process while it hangs; "wait" waits in step HANG_STEP + 1 for a signal.
Weights are saved to OUTPUT/weights.pt.
"""

import sys
import time
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.faults import fuse
from tests.tiny import arguments, trainer

SAVING = {"save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 5}


class Hangs(TrainerCallback):
    """Stops and continues the server of the file system."""

    def __init__(self, server: int, hang_step: int, answer_step: int, waits: bool) -> None:
        self.server, self.hang_step, self.answer_step = server, hang_step, answer_step
        self.waits = waits

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        if state.global_step == self.hang_step:
            fuse.hang(self.server)
            print("hangs", flush=True)
        if state.global_step == self.answer_step:
            fuse.answer(self.server)
        if state.global_step == self.hang_step + 1 and self.waits:
            print("waits", flush=True)
            time.sleep(3600)


def main(run: str, output: str, server: str, hang_step: str, answer_step: str, end: str) -> None:
    changes = {"logging_dir": run, "logging_steps": 1, "histogram_steps": 1, **SAVING}
    made = trainer(TBTrainer, arguments(TBTrainingArguments, Path(output), **changes))
    made.add_callback(Hangs(int(server), int(hang_step), int(answer_step), end == "wait"))
    made.train()
    torch.save(made.model.state_dict(), Path(output) / "weights.pt")
    print("trained", flush=True)
    if end == "answer":
        fuse.answer(int(server))
        while made.writer.counters.pending:
            time.sleep(0.01)
        print(made.writer.counters, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
