"""Finds the run of a checkpoint, rewinds it, and reads what observers saved in the checkpoint.

Errors are logged, and never raised.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

from tbtrainer.redaction import redacted_text, shown
from tbtrainer.run.resume import NEW_RUN, Continued, Training, run_of_checkpoint
from tbtrainer.run.rewind import rewind
from tbtrainer.run.saved_run import SavedRun
from tbtrainer.run.time_limit import while_opening

logger = logging.getLogger(__name__)


def found_run(checkpoint: str, training: Training) -> Continued | None:
    """Returns the run that a resumed training continues, or `None`. Logs why a new run begins.

    Args:
        checkpoint: The checkpoint that the training resumes from.
        training: The directories of the training.
    """
    checkpoint = os.fspath(checkpoint)
    if not os.path.isdir(checkpoint):
        return None  # `Trainer` itself raises an error for it.
    try:
        decision = while_opening(run_of_checkpoint, checkpoint, training)
    except Exception as error:  # What is read may be broken in unforeseen ways.
        decision = f"The run of {shown(checkpoint)} was not found ({shown(error)}). {NEW_RUN}"
    if isinstance(decision, str):
        logger.warning("%s", decision)
        return None
    directory = shown(decision.run.directory)
    if decision.is_assumed:
        logger.warning(
            "%s and the checkpoints beside it have no readable tensorboard_run.json. Training "
            "continues the run %s, in which a training of this output_dir began last. To begin "
            "a new run instead, set run_resume='new'.",
            shown(checkpoint),
            directory,
        )
    logger.info("Training continues the run %s after step %d.", directory, decision.step)
    return decision


def rewind_run(continued: Continued) -> None:
    """Takes what was written after the checkpoint out of its run. Logs an error."""
    directory, step = continued.run.directory, continued.step
    try:
        rewind(directory, step)
    except Exception as error:
        # The run is still the right one. The next resume removes what could not be removed now.
        logger.warning(
            "Events after step %d could not be taken out of %s (%s). Training continues this "
            "run. TensorBoard shows those events beside the new ones, until the training is "
            "resumed again and they can be taken out.",
            step,
            shown(directory),
            redacted_text(str(error)),
        )


def states_in(checkpoint: str) -> Mapping[str, Any]:
    """Returns the states of observers that a checkpoint holds.

    Empty if the checkpoint has no readable marker, or one whose step is not that in the name of the
    checkpoint. A marker of another checkpoint is not used.

    Args:
        checkpoint: The checkpoint that the training resumes from.
    """
    try:
        saved = while_opening(SavedRun.read, os.fspath(checkpoint))
    except Exception as error:  # A broken marker, or a mount that hangs.
        logger.debug("%s has no states of observers: %s", shown(checkpoint), shown(error))
        return {}
    return {} if saved is None else saved.observers
