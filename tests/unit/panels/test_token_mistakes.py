"""The card of the most confident token mistakes: which they are, and the text around them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tbtrainer.panels.marked_texts import marked_text, windows
from tbtrainer.panels.token_mistakes import AROUND, TokenMistakes
from tbtrainer.records import Text
from tests.panel_evaluations import batch, drawn, evaluation, on_meta

NAN = float("nan")
NAMES = {0: "O", 1: "B-a", 2: "I-a"}


class Words:
    """A tokenizer of words. 0 is padding, 1 begins a text, 2 ends it, 3 is an unknown word."""

    pad_token_id, cls_token_id, sep_token_id, unk_token_id = 0, 1, 2, 3

    def __init__(self, words: dict[int, str] | None = None) -> None:
        self.words = {0: "[PAD]", 1: "[CLS]", 2: "[SEP]", 3: "[UNK]", **(words or {})}

    def decode(self, tokens: list[int]) -> str:
        return " ".join(self.words.get(token, f"w{token}") for token in tokens)


def given(logits: Tensor, labels: Any, tokens: Any) -> Any:
    return batch(logits, torch.tensor(labels), input_ids=torch.tensor(tokens))


def sure(predictions: list[list[int]], logits: list[list[float]]) -> Tensor:
    """Logits of three classes that are zero but for the one predicted."""
    chosen = torch.nn.functional.one_hot(torch.tensor(predictions), 3)
    return chosen * torch.tensor(logits).float()[:, :, None]


FIRST = given(
    sure([[0, 1, 2, 0], [0, 0, 0, 0]], [[1, 3, 2, 9], [9, 4, 1, 9]]),
    [[-100, 0, 2, -100], [-100, 1, 1, -100]],
    [[1, 10, 11, 2], [1, 12, 3, 2]],
)
SECOND = given(
    sure([[0, 1, 0, 0, 0, 0]], [[9, 5, 1, 1, 1, 9]]),
    [[-100, 2, 0, 0, 0, -100]],
    [[1, 20, 21, 22, 23, 2]],
)


def card(*batches: Any, **changes: Any) -> str:
    config = {"id2label": NAMES, "processing_class": Words(), **changes}
    (record,) = drawn(TokenMistakes(), batches, **config)
    assert isinstance(record, Text) and record.tag == "eval/token_mistakes"
    return record.text


def rows_of(text: str) -> list[list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [lines[0], *lines[2:]]


def test_the_most_confident_mistake_is_first() -> None:
    text = card(FIRST, SECOND)
    assert text.startswith("All 4 mistakes in 8 tokens of 3 examples:\n\n|")
    assert rows_of(text) == [
        ["text", "label", "prediction", "confidence"],
        ["<strong>w20</strong> w21 w22 w23", "I-a", "B-a", "0.987"],
        ["<strong>w12</strong> &#91;UNK&#93;", "B-a", "O", "0.965"],
        ["<strong>w10</strong> w11", "O", "B-a", "0.909"],
        ["w12 <strong>&#91;UNK&#93;</strong>", "B-a", "O", "0.576"],
    ]


def test_at_most_twenty_mistakes_are_shown() -> None:
    logits = sure([[1] * 30], [[float(number) for number in range(1, 31)]])
    text = card(given(logits, [[0] * 30], [list(range(10, 40))]))
    assert text.startswith("The 20 most confident of 30 mistakes in 30 tokens of 1 example:")
    assert len(rows_of(text)) == 21


def test_no_mistakes_are_a_card_that_says_so() -> None:
    text = card(given(sure([[1, 0]], [[1, 1]]), [[1, -100]], [[10, 2]]))
    assert text == "No mistakes in 1 token of 1 example."


@pytest.mark.parametrize("label, logit", [(-100, 0.0), (1, NAN)])
def test_no_label_or_no_probability_is_no_mistake(label: int, logit: float) -> None:
    one = given(torch.tensor([[[logit, 5.0, 0.0]]]), [[label]], [[10]])
    assert drawn(TokenMistakes(), [one], id2label=NAMES, processing_class=Words()) == []


def test_a_window_ends_with_its_sequence() -> None:
    tokens = torch.arange(1, 9).reshape(2, 4)
    found = windows(tokens, torch.tensor([0, 3, 4, 6]), 2)
    assert found.tolist() == [[0, 0, 1, 2, 3], [2, 3, 4, 0, 0], [0, 0, 5, 6, 7], [5, 6, 7, 8, 0]]


def test_a_long_text_is_cut_on_both_sides() -> None:
    length = 2 * AROUND + 1
    words = Words({10 + place: f"{'x' * 20}{place}" for place in range(length)})
    window = torch.arange(11, 11 + length).numpy()
    text = marked_text(window, words)
    left, _, right = text.partition(f"<strong>{'x' * 20}{AROUND}</strong>")
    assert left[0] == right[-1] == "…"
    assert 100 < len(left) < 105 and 100 < len(right) < 105


def test_odd_texts_stay_in_their_cells() -> None:
    words = Words({10: "a|b\nc", 11: "<b>*d*", 12: "`e"})
    text = marked_text(torch.tensor([11, 12, 13]).numpy(), words)
    assert text == "a&#124;b c <strong>&#60;b&#62;&#42;d&#42;</strong> &#96;e"


def test_a_secret_is_hidden_where_a_mistake_divides_it() -> None:
    secret = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ12345678"
    pieces = [secret[:12], secret[12:24], secret[24:]]

    class Pieces(Words):
        def decode(self, tokens: list[int]) -> str:
            return "".join(pieces[token - 10] for token in tokens)

    text = marked_text(torch.tensor([11, 12, 13]).numpy(), Pieces())
    assert not any(piece in text for piece in pieces)


def test_parts_of_a_word_have_no_space_between() -> None:
    class WordPieces(Words):
        def decode(self, tokens: list[int]) -> str:
            return super().decode(tokens).replace(" ##", "")

    words = WordPieces({10: "in", 11: "Ty", 12: "##rol"})
    window = torch.tensor([11, 12, 13]).numpy()
    assert marked_text(window, words) == "in <strong>Ty</strong>rol"
    assert marked_text(torch.tensor([12, 13, 0]).numpy(), words) == "Ty<strong>rol</strong>"


def test_texts_that_depend_on_what_follows_are_decoded_apart() -> None:
    class Reversed(Words):
        def decode(self, tokens: list[int]) -> str:
            return super().decode(tokens[::-1])

    text = marked_text(torch.tensor([11, 12, 13]).numpy(), Reversed())
    assert text == "w10 <strong>w11</strong> w12"


def test_a_token_without_text_is_marked() -> None:
    text = marked_text(torch.tensor([11, 12, 13]).numpy(), Words({11: " "}))
    assert text == "w10 <strong>␣</strong> w12"


@pytest.mark.parametrize("processing_class", [None, object()])
def test_without_a_tokenizer_nothing_is_shown(processing_class: Any) -> None:
    shown = evaluation(FIRST, id2label=NAMES, processing_class=processing_class)
    assert not TokenMistakes().applies(shown)
    assert TokenMistakes().applies(evaluation(FIRST, id2label=NAMES, processing_class=Words()))


def test_a_batch_is_kept_without_looking_at_its_values() -> None:
    one = on_meta(FIRST)
    kept = TokenMistakes().batch(one, evaluation(one, processing_class=Words()))
    assert kept.examples["tokens"].shape == (8, 2 * AROUND + 1)
