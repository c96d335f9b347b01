"""Log entries become tags and values."""

import logging

import numpy as np
import pytest
import torch
from transformers.integrations.integration_utils import rewrite_logs

from tbtrainer.observers.log_entries import records, stock_tag


@pytest.mark.parametrize(
    "key", ["loss", "eval_loss", "test_f1", "eval_", "evaluation", "eval_a_b", "epoch"]
)
def test_tags_are_those_of_the_stock_callback(key):
    assert [stock_tag(key)] == list(rewrite_logs({key: 1}))


@pytest.mark.parametrize(
    "value",
    [
        np.float32(0.5),
        np.float64(0.5),
        np.array(0.5),
        np.array([0.5]),
        torch.tensor(0.5),
        torch.tensor([[0.5]], dtype=torch.bfloat16),
    ],
)
def test_one_number_in_any_wrapping_is_a_scalar(value):
    assert list(records({"loss": value}, set())) == [("train/loss", 0.5)]


def test_a_nested_dictionary_is_one_record_per_leaf():
    logs = {"eval_f1": {"positive": 0.25, "of": {"negative": 0.5}}}
    assert dict(records(logs, set())) == {"eval/f1/positive": 0.25, "eval/f1/of/negative": 0.5}


def test_text_stays_text():
    assert list(records({"note": "warm"}, set())) == [("train/note", "warm")]


def test_what_cannot_be_shown_is_warned_of_once_per_key(caplog):
    refused: set[str] = set()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert list(records({"curve": [1, 2], "vector": torch.ones(2)}, refused)) == []
    assert [r.message.count("'curve'") for r in caplog.records].count(1) == 1
    assert len(caplog.records) == 2


def test_an_int_beyond_float_range_ends_at_infinity():
    assert list(records({"huge": -(10**400)}, set())) == [("train/huge", float("-inf"))]
