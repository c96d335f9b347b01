"""What kind of task an evaluation is, by the shapes and dtypes of its logits and labels."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tbtrainer.panels.markdown import one_line
from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import PanelEvaluation
from tbtrainer.redaction import redacted_name


def is_single_label(evaluation: PanelEvaluation) -> bool:
    """Returns whether each example has one of several classes.

    Logits have the shape (examples, classes), labels are whole numbers of the shape (examples,) or
    (examples, 1). A model that chooses among several texts is left out: its classes are positions.
    """
    found = _logits_and_labels(evaluation)
    if found is None or _problem_type(evaluation) in ("regression", "multi_label_classification"):
        return False
    logits, labels = found
    has_classes = logits.dim() == 2 and logits.shape[1] >= 2
    return has_classes and is_whole(labels) and _is_column(labels) and not _chooses(evaluation)


def is_multi_label(evaluation: PanelEvaluation) -> bool:
    """Returns whether each example may have any number of labels.

    Logits and labels have the shape (examples, labels). If the configuration does not say that it
    is a multi-label classification, there are at least two labels. That they are 0 or 1 is not
    looked at here, because that would wait for the device.
    """
    found = _logits_and_labels(evaluation)
    declared = _problem_type(evaluation)
    if found is None or declared not in (None, "multi_label_classification"):
        return False
    logits, labels = found
    fewest = 2 if declared is None else 1
    return logits.dim() == 2 and labels.shape == logits.shape and logits.shape[1] >= fewest


def is_regression(evaluation: PanelEvaluation) -> bool:
    """Returns whether a number is predicted for each example.

    Logits and labels have the shape (examples,) or (examples, 1). Labels are floating, or the
    configuration says that it is a regression.
    """
    found = _logits_and_labels(evaluation)
    declared = _problem_type(evaluation)
    if found is None or declared not in (None, "regression"):
        return False
    logits, labels = found
    has_numbers = labels.is_floating_point() or (is_whole(labels) and declared == "regression")
    return _is_column(logits) and _is_column(labels) and has_numbers


def names_regression(evaluation: PanelEvaluation) -> bool:
    """Returns whether the configuration itself says that the evaluation is a regression."""
    return bool(_problem_type(evaluation) == "regression")


def class_label(evaluation: PanelEvaluation, index: int) -> str:
    """Returns the name of a class, on one line, without secrets and control characters.

    A class that the configuration does not name, or only as `LABEL_3`, gets its number.
    """
    name = one_line(redacted_name(evaluation.class_name(index)))
    return str(index) if name in ("", f"LABEL_{index}") else name


def class_labels(evaluation: PanelEvaluation, classes: Sequence[int]) -> list[str]:
    """Returns the names of some classes, with their numbers where names are equal."""
    names = [class_label(evaluation, index) for index in classes]
    times = Counter(names)
    return [
        f"{name} ({index})" if times[name] > 1 else name
        for name, index in zip(names, classes, strict=True)
    ]


def _logits_and_labels(evaluation: PanelEvaluation) -> tuple[Tensor, Tensor] | None:
    batch = evaluation.first_batch
    if batch is None or batch.logits is None or not is_tensor(batch.labels):
        return None
    logits, labels = batch.logits, batch.labels
    fits = len(logits) == len(labels) == batch.size
    return (logits, labels) if fits and logits.is_floating_point() else None


def _problem_type(evaluation: PanelEvaluation) -> Any:
    return getattr(evaluation.config, "problem_type", None)


def is_whole(labels: Tensor) -> bool:
    """Returns whether labels are whole numbers, of any width, and not true or false."""
    is_number = labels.dtype != torch.bool and not labels.is_complex()
    return is_number and not labels.is_floating_point()


def _is_column(tensor: Tensor) -> bool:
    return tensor.dim() == 1 or (tensor.dim() == 2 and tensor.shape[1] == 1)


def _chooses(evaluation: PanelEvaluation) -> bool:
    """Returns whether an example is several texts, of which the model chooses one."""
    assert evaluation.first_batch is not None
    tokens = evaluation.first_batch.inputs.get("input_ids")
    return is_tensor(tokens) and tokens.dim() > 2
