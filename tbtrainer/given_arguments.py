"""Where a trainer's `TensorBoardArguments` come from, whatever arguments it was given."""

import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, cast

from transformers import TrainingArguments

from tbtrainer.arguments import TensorBoardArguments


def given_arguments(values: Iterable[Any]) -> TensorBoardArguments | None:
    """Returns the first of some values that has the fields of `TensorBoardArguments`."""
    return next((value for value in values if isinstance(value, TensorBoardArguments)), None)


@contextmanager
def convertible(args: TensorBoardArguments | None) -> Iterator[None]:
    """While open, `args.to_dict` leaves out the fields that only `TensorBoardArguments` has.

    Trainers of other libraries convert arguments of another class to their own with
    `TheirConfig(**args.to_dict())`, which would fail on these fields. Seen in TRL 1.16.
    """
    if args is None:
        yield
        return
    args._hides_own_fields = True
    try:
        yield
    finally:
        del args._hides_own_fields


def telemetry_arguments(
    args: TrainingArguments, given: TensorBoardArguments | None = None
) -> TensorBoardArguments:
    """Returns the fields of `TensorBoardArguments` in `args`, or their defaults if it has none.

    Args:
        args: Any `TrainingArguments`.
        given: What was passed to the trainer. It counts if the trainer has converted it to `args`.

    Returns:
        A `TensorBoardArguments` whose `logging_dir` is `None` unless the user named one.
    """
    if given is not None and not isinstance(args, TensorBoardArguments):
        return telemetry_arguments(cast(TrainingArguments, given))
    if not isinstance(args, TensorBoardArguments):
        return TensorBoardArguments(logging_dir=_logging_dir_named_in(args))
    values = {f.name: getattr(args, f.name) for f in fields(TensorBoardArguments)}
    if getattr(args, "_logging_dir_is_default", False):
        values["logging_dir"] = None
    return TensorBoardArguments(**values)


def _logging_dir_named_in(args: TrainingArguments) -> str | None:
    """Returns the user's `logging_dir` of a plain `TrainingArguments`, or `None`.

    transformers 4.57 has such a field and sets a default; 5.x has none. The default is not the
    user's choice, so `TENSORBOARD_LOGGING_DIR` takes precedence over it.
    """
    named: str | None = getattr(args, "logging_dir", None)
    if named is None:
        return None
    folder, name = os.path.split(named)
    filled_in = re.fullmatch(r"\w{3}\d\d_\d\d-\d\d-\d\d_" + re.escape(socket.gethostname()), name)
    return None if filled_in and folder == os.path.join(str(args.output_dir), "runs") else named
