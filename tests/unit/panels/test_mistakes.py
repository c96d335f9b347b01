"""The card of the most confident mistakes: which they are, their order, and what is shown."""

from typing import Any

import pytest
import torch

from tbtrainer.panels.mistakes import Mistakes
from tbtrainer.records import Text
from tests.panel_evaluations import batch, drawn, evaluation, on_meta
from tests.unit.panels.test_token_texts import Letters

NAN = float("nan")
NAMES = {0: "no", 1: "yes"}


def card(*batches: Any, **config: Any) -> str:
    (record,) = drawn(Mistakes(), batches, **{"id2label": NAMES, **config})
    assert isinstance(record, Text) and record.tag == "eval/mistakes"
    return record.text


def rows_of(text: str) -> list[list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [lines[0], *lines[2:]]


def words(logits: Any, labels: Any, *tokens: list[int]) -> Any:
    return batch(torch.tensor(logits), torch.tensor(labels), input_ids=torch.tensor(tokens))


FIRST = words([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], [1, 0, 0], [1, 2, 2], [1, 3, 0], [1, 4, 0])
SECOND = words([[4.0, 0.0], [0.0, 9.0]], [1, -100], [1, 5, 6, 7], [1, 2, 2, 2])


def test_the_most_confident_mistake_is_first() -> None:
    text = card(FIRST, SECOND, processing_class=Letters())
    assert text.startswith("All 3 mistakes in 4 of 5 examples:\n\n|")
    assert rows_of(text) == [
        ["text", "label", "prediction", "confidence"],
        ["def", "yes", "no", "0.982"],
        ["aa", "yes", "no", "0.881"],
        ["b", "no", "yes", "0.731"],
    ]


def test_at_most_twenty_mistakes_are_shown() -> None:
    logits = torch.stack([torch.arange(30.0), torch.zeros(30)], dim=1) / 10
    given = batch(logits, torch.ones(30).long(), size=torch.arange(30))
    text = card(given)
    assert text.startswith("The 20 most confident of 30 mistakes in 30 examples:")
    assert [row[0] for row in rows_of(text)[1:]] == [str(29 - place) for place in range(20)]


def test_no_mistakes_are_a_card_that_says_so() -> None:
    given = words([[2.0, 0.0]], [0], [1, 2])
    assert card(given, processing_class=Letters()) == "No mistakes in 1 example."


@pytest.mark.parametrize("label, logit", [(-100, 0.0), (1, NAN)])
def test_no_label_or_no_probability_is_no_mistake(label: int, logit: float) -> None:
    assert drawn(Mistakes(), [batch(torch.tensor([[logit, 5.0]]), torch.tensor([label]))]) == []


def test_inputs_of_few_numbers_are_shown() -> None:
    given = batch(
        torch.tensor([[2.0, 0.0]]),
        torch.tensor([1]),
        petal=torch.tensor([[1.23456, 200.0]]),
        age=torch.tensor([7]),
    )
    assert rows_of(card(given)) == [
        ["petal", "age", "label", "prediction", "confidence"],
        ["1.235, 200", "7", "yes", "no", "0.881"],
    ]


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"pixel_values": torch.zeros(1, 3, 8, 8)},
        {"features": torch.zeros(1, 17)},
        {"input_ids": torch.zeros(1, 20).long(), "attention_mask": torch.ones(1, 20)},
    ],
)
def test_other_inputs_are_not_shown(inputs: dict[str, Any]) -> None:
    first = batch(torch.zeros(1, 2), torch.tensor([0]), **inputs)
    assert not Mistakes().applies(evaluation(first))


def test_odd_texts_and_names_stay_in_their_cells() -> None:
    class Odd(Letters):
        def decode(self, *args: Any, **kwargs: Any) -> str:
            return "one | two\n| three <b>"

    text = card(FIRST, processing_class=Odd(), id2label={0: "a|b", 1: "c\nd"})
    assert rows_of(text)[1] == [
        "one &#124; two &#124; three &#60;b&#62;",
        "c d",
        "a&#124;b",
        "0.881",
    ]


def test_a_batch_is_kept_without_looking_at_its_values() -> None:
    given = on_meta(FIRST)
    assert Mistakes().batch(given, evaluation(processing_class=Letters())).examples
