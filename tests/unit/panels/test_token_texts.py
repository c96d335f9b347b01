"""The text of examples: what of their tokens is kept, and how it is decoded."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tbtrainer.panels.token_texts import has_texts, text_of, text_tokens, tokenizer_of


class Letters:
    """A tokenizer whose token n is the n-th letter; 0 is the padding, 1 a special token."""

    pad_token_id: int | None = 0

    def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
        kept = [token for token in tokens if token > 1 or not skip_special_tokens]
        return "".join("#^abcdef"[token] for token in kept)


TOKENS = torch.tensor([[1, 2, 3, 0], [0, 1, 4, 5]])
MASK = (TOKENS != 0).long()


def texts(inputs: dict[str, Any], tokenizer: Any) -> list[str]:
    return [text_of(row, tokenizer) for row in text_tokens(inputs, tokenizer).numpy()]


@pytest.mark.parametrize("inputs", [{}, {"attention_mask": MASK}])
def test_padding_and_special_tokens_are_left_out(inputs: dict[str, Any]) -> None:
    assert texts({"input_ids": TOKENS, **inputs}, Letters()) == ["ab", "cd"]


def test_the_attention_mask_says_what_padding_is() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0]])
    assert texts({"input_ids": TOKENS, "attention_mask": mask}, Letters()) == ["a", "c"]


def test_without_a_padding_token_all_tokens_are_text() -> None:
    tokenizer = Letters()
    tokenizer.pad_token_id = None
    assert text_tokens({"input_ids": TOKENS}, tokenizer).min() == 1


def test_a_mask_of_another_shape_is_not_used() -> None:
    mask = torch.zeros(2, 1, 4, 4)
    assert texts({"input_ids": TOKENS, "attention_mask": mask}, Letters()) == ["ab", "cd"]


def test_the_tokenizer_of_a_processor_is_found() -> None:
    tokenizer = Letters()
    assert tokenizer_of(SimpleNamespace(tokenizer=tokenizer)) is tokenizer
    assert tokenizer_of(SimpleNamespace(size=224)) is None
    assert tokenizer_of(None) is None


@pytest.mark.parametrize(
    "tokens", [None, TOKENS.float(), TOKENS[0], TOKENS[None], [[1, 2]], torch.tensor(3)]
)
def test_other_inputs_have_no_texts(tokens: Any) -> None:
    assert not has_texts({"input_ids": tokens}, Letters())


def test_texts_need_a_tokenizer() -> None:
    assert has_texts({"input_ids": TOKENS}, Letters())
    assert not has_texts({"input_ids": TOKENS}, None)
