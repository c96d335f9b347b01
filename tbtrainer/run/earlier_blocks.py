"""Reads what a run that is continued holds about the blocks of the model.

Errors are logged, and never raised.
"""

import logging
from collections.abc import Mapping
from typing import Any

from tbtrainer.reading.block_lines import block_lines
from tbtrainer.reading.run_files import folder_of
from tbtrainer.redaction import shown
from tbtrainer.run.time_limit import while_opening

logger = logging.getLogger(__name__)


def earlier_blocks(directory: str, step: int) -> list[Mapping[str, Any]]:
    """Returns the lines about the blocks of all targets up to a step, by step.

    Waits for the disk, for a limited time.

    Args:
        directory: The run directory, local or remote. It need not exist.
        step: Of the checkpoint that the training resumes from.
    """
    try:
        lines = while_opening(_lines, directory)
    except FileNotFoundError:
        return []
    except Exception as error:  # Every object store has exceptions of its own.
        logger.warning(
            "The numbers of the blocks up to step %d cannot be read from %s (%s). The pictures in "
            "model_depth/ begin after this step. Everything else is shown.",
            step,
            shown(directory),
            shown(error),
        )
        return []
    return [line for line in lines if line["step"] <= step]


def _lines(directory: str) -> list[dict[str, Any]]:
    return block_lines(folder_of(directory))
