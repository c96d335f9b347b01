"""Which evaluations are token classifications, and which only look like one."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForTokenClassification

from tbtrainer.panels.token_labels import (
    is_token_classification,
    tokens_as_examples,
    tokens_line,
)
from tests.panel_evaluations import batch, evaluation

NAMES = {0: "O", 1: "B-a", 2: "I-a"}
TOKENS = torch.ones(2, 4, dtype=torch.int64)
LOGITS = torch.zeros(2, 4, 3)


def applies(
    logits: Any = LOGITS, labels: Any = TOKENS, tokens: Any = TOKENS, **config: Any
) -> bool:
    first = batch(logits, labels, input_ids=tokens)
    return is_token_classification(evaluation(first, **{"id2label": NAMES, **config}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("whole", [torch.int64, torch.int32])
def test_a_class_per_token_is_a_token_classification(
    dtype: torch.dtype, whole: torch.dtype
) -> None:
    assert applies(LOGITS.to(dtype), TOKENS.to(whole), vocab_size=50)


@pytest.mark.parametrize(
    "change",
    [
        {"id2label": {0: "O", 1: "a"}},
        {"id2label": None},
        {"vocab_size": 3},
        {"get_text_config": lambda: SimpleNamespace(vocab_size=3)},
        {"problem_type": "multi_label_classification"},
        {"labels": None},
        {"labels": (TOKENS, TOKENS)},
        {"labels": TOKENS[:, :3]},
        {"labels": TOKENS.float()},
        {"labels": TOKENS.bool()},
        {"labels": TOKENS[:, 0]},
        {"tokens": None},
        {"tokens": TOKENS[:, :3]},
        {"logits": LOGITS.long()},
        {"logits": LOGITS[:, 0]},
        {"logits": LOGITS[:, :, :1], "id2label": {0: "O"}},
    ],
)
def test_anything_doubtful_is_not(change: dict[str, Any]) -> None:
    assert not applies(**change)


def test_an_evaluation_without_logits_is_not() -> None:
    first = replace(batch(LOGITS, TOKENS, input_ids=TOKENS), outputs=None)
    assert not is_token_classification(evaluation(first, id2label=NAMES))
    assert not is_token_classification(evaluation(None, id2label=NAMES))


@pytest.mark.parametrize("kind", [BertForTokenClassification, BertForMaskedLM])
def test_a_language_model_has_classes_for_its_vocabulary(kind: Any) -> None:
    # Even where it has as many labels as tokens, and the configuration does not say so.
    config = BertConfig(
        vocab_size=3,
        num_labels=3,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    model = kind(config)
    first = batch(LOGITS, TOKENS, input_ids=TOKENS)
    given = replace(evaluation(first, id2label=NAMES), model=model)
    assert is_token_classification(given) is (kind is BertForTokenClassification)


def test_tokens_are_the_examples_of_a_classification() -> None:
    logits = torch.arange(24.0).reshape(2, 4, 3)
    flat = tokens_as_examples(batch(logits, torch.arange(8).reshape(2, 4)))
    assert flat.size == 8 and torch.equal(flat.labels, torch.arange(8))
    assert flat.logits is not None and torch.equal(flat.logits, logits.reshape(8, 3))


def test_the_line_counts_tokens_and_examples() -> None:
    assert tokens_line(12345, 1000) == "12,345 tokens of 1,000 examples"
    assert tokens_line(1, 1) == "1 token of 1 example"
