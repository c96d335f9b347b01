"""Trains under torchrun; the first start crashes, the second resumes from the last checkpoint."""

import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.tiny import arguments, trainer


class CrashAtFirst(TrainerCallback):
    """Ends the process after a step, like a machine that is preempted."""

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Exits at step 7 of the first start."""
        if state.global_step == 7 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os._exit(9)


def main(directory: str) -> None:
    """Trains, from the last checkpoint where there is one."""
    saving = {"save_strategy": "steps", "save_steps": 4, "histogram_steps": 3}
    args = arguments(TBTrainingArguments, Path(directory), **saving)
    made = trainer(TBTrainer, args, callbacks=[CrashAtFirst()])
    Path(directory).mkdir(exist_ok=True)
    made.train(resume_from_checkpoint=get_last_checkpoint(directory))
    if dist.get_rank() == 0:
        print([made.state.global_step], flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
