"""Which task an evaluation is said to be, and how its classes are called."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tbtrainer.panels import PanelBatch
from tbtrainer.panels.tasks import class_labels, is_multi_label, is_regression, is_single_label
from tests.panel_evaluations import batch, evaluation

WHOLE, FLOATING = torch.tensor([0, 2, 1, 0]), torch.tensor([0.5, 2.0, -1.0, 0.0])
CLASSES, ONE, TOKENS = torch.zeros(4, 3), torch.zeros(4, 1), torch.zeros(4, 7, 3)
BINARY = torch.tensor([[1, 0, 1]] * 4)


def tasks(logits: Any, labels: Any, problem_type: str | None = None, **inputs: Any) -> set[str]:
    first = batch(logits, labels, **inputs)
    found = evaluation(first, problem_type=problem_type)
    kinds = {"single": is_single_label, "multi": is_multi_label, "regression": is_regression}
    return {name for name, is_kind in kinds.items() if is_kind(found)}


@pytest.mark.parametrize(
    "labels",
    [WHOLE, WHOLE[:, None], WHOLE.to(torch.int32), WHOLE.to(torch.uint8), torch.tensor([-100] * 4)],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_whole_numbers_are_classes(labels: torch.Tensor, dtype: torch.dtype) -> None:
    assert tasks(CLASSES.to(dtype), labels) == {"single"}


@pytest.mark.parametrize("labels", [BINARY, BINARY.float(), BINARY.bool()])
@pytest.mark.parametrize("declared", [None, "multi_label_classification"])
def test_a_label_per_logit_is_multi_label(labels: torch.Tensor, declared: str | None) -> None:
    assert tasks(CLASSES, labels, declared) == {"multi"}


@pytest.mark.parametrize("logits", [ONE, ONE[:, 0]])
@pytest.mark.parametrize("labels", [FLOATING, FLOATING[:, None]])
def test_floating_labels_of_one_logit_are_a_regression(
    logits: torch.Tensor, labels: torch.Tensor
) -> None:
    assert tasks(logits, labels) == {"regression"}


def test_whole_labels_are_a_regression_if_declared() -> None:
    assert tasks(ONE, WHOLE, "regression") == {"regression"}
    assert tasks(ONE, WHOLE) == set()


@pytest.mark.parametrize("declared", ["regression", "multi_label_classification"])
def test_a_declared_problem_type_excludes_classes(declared: str) -> None:
    assert tasks(CLASSES, WHOLE, declared) == set()


@pytest.mark.parametrize(
    "logits, labels",
    [
        (CLASSES, None),
        (CLASSES, (WHOLE, WHOLE)),
        (CLASSES, FLOATING),
        (CLASSES, WHOLE.bool()),
        (CLASSES, WHOLE[:3]),
        (CLASSES, torch.tensor(1)),
        (CLASSES, WHOLE[:, None].expand(4, 2)),
        (CLASSES.long(), WHOLE),
        (TOKENS, WHOLE),
        (TOKENS, torch.zeros(4, 7).long()),
        ((), WHOLE),
        (None, WHOLE),
    ],
)
def test_doubtful_shapes_are_no_task(logits: Any, labels: Any) -> None:
    first = PanelBatch(4, {}, {"logits": logits}, None, labels, None)
    found = evaluation(first)
    assert not (is_single_label(found) or is_multi_label(found) or is_regression(found))


def test_an_evaluation_without_a_batch_is_no_task() -> None:
    assert not is_single_label(evaluation())


def test_a_choice_among_texts_is_no_classification() -> None:
    assert tasks(CLASSES, WHOLE, input_ids=torch.ones(4, 3, 9).long()) == set()


def test_a_model_without_a_configuration_has_a_task() -> None:
    found = evaluation(batch(CLASSES, WHOLE))
    object.__setattr__(found, "config", None)
    assert is_single_label(found)


@pytest.mark.parametrize(
    "names, expected",
    [
        ({0: "no", 1: "yes"}, ["no", "yes"]),
        ({"0": "no", "1": "yes"}, ["no", "yes"]),
        ({0: "LABEL_0", 1: "LABEL_1"}, ["0", "1"]),
        ({0: "same", 1: "same"}, ["same (0)", "same (1)"]),
        ({0: " two\nlines ", 1: ""}, ["two lines", "1"]),
        ({0: "half \ud83d", 1: "\x07"}, ["half \ufffd", "\ufffd"]),
        (None, ["0", "1"]),
    ],
)
def test_classes_have_different_names(names: Any, expected: list[str]) -> None:
    found = evaluation()
    object.__setattr__(found, "config", SimpleNamespace(id2label=names))
    assert class_labels(found, [0, 1]) == expected


def test_a_secret_in_the_name_of_a_class_is_hidden() -> None:
    token = "hf_" + "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xYzZ"
    names = class_labels(evaluation(id2label={0: f"token {token}"}), [0])
    assert token not in names[0]
