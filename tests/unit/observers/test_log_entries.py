"""Log entries become tags and values."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from transformers.integrations.integration_utils import rewrite_logs

from tbtrainer.observers.log_entries import LogEntries, stock_tag


def records(logs: Mapping[str, Any], observer: LogEntries | None = None) -> list[tuple[str, Any]]:
    """Tags and values of an entry."""
    shown = (observer or LogEntries()).entry_logged(1, logs)
    return [(record.tag, vars(record).get("value", vars(record).get("text"))) for record in shown]


@pytest.mark.parametrize(
    "key", ["loss", "eval_loss", "test_f1", "eval_", "evaluation", "eval_a_b", "epoch"]
)
def test_tags_are_those_of_the_stock_callback(key: str) -> None:
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
def test_one_number_in_any_wrapping_is_a_scalar(value: Any) -> None:
    assert records({"loss": value}) == [("train/loss", 0.5)]


def test_a_nested_dictionary_is_one_record_per_leaf() -> None:
    logs = {"eval_f1": {"positive": 0.25, "of": {"negative": 0.5}}}
    assert dict(records(logs)) == {"eval/f1/positive": 0.25, "eval/f1/of/negative": 0.5}


def test_text_stays_text() -> None:
    assert records({"note": "warm"}) == [("train/note", "warm")]


def test_what_cannot_be_shown_is_warned_of_once_per_key(caplog: pytest.LogCaptureFixture) -> None:
    observer = LogEntries()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert records({"curve": [1, 2], "vector": torch.ones(2)}, observer) == []
    assert [r.message.count("'curve'") for r in caplog.records].count(1) == 1
    assert len(caplog.records) == 2


def test_a_key_warned_of_is_shown_when_it_is_numeric(caplog: pytest.LogCaptureFixture) -> None:
    observer = LogEntries()
    with caplog.at_level(logging.WARNING):
        shown = [(records({"f1": value}, observer)) for value in ([1, 2], 0.5, [1, 2], 0.75)]
    assert shown == [[], [("train/f1", 0.5)], [], [("train/f1", 0.75)]]
    assert len(caplog.records) == 1
    assert "because it is of type list" in caplog.text


def test_none_means_no_value_now(caplog: pytest.LogCaptureFixture) -> None:
    logs = {"reward": None, "rewards": {"format": None, "length": 0.5}}
    with caplog.at_level(logging.DEBUG):
        assert records(logs) == [("train/rewards/length", 0.5)]
    assert caplog.records == []


@pytest.mark.parametrize(
    "logs",
    [
        {"api_key": "MARKER7f3a9c"},
        {"eval_db_password": "MARKER7f3a9c"},
        {"auth": {"password": "MARKER7f3a9c"}},
        {"auth": {"inside": {"harmless": "MARKER7f3a9c"}}},
        {"password": 73919375},
        {"note": "password=MARKER7f3a9c"},
    ],
    ids=str,
)
def test_a_value_whose_key_names_a_secret_is_hidden(logs: dict[str, Any]) -> None:
    ((_, value),) = records(logs)
    assert "MARKER7f3a9c" not in str(value) and "73919375" not in str(value)
    assert "<hidden>" in str(value)


@pytest.mark.parametrize(
    "key", ["hf_MARKER7f3a9cabcdefgh", "https://user:MARKER7f3a9c@host", "password=MARKER7f3a9c"]
)
def test_a_secret_in_a_key_reaches_neither_tag_nor_warning(
    key: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        ((tag, value),) = records({key: 0.5, "of": {key: [1, 2]}})
    assert "MARKER7f3a9c" not in tag + caplog.text
    assert value == 0.5
    assert len(caplog.records) == 1


def test_a_secret_left_out_is_not_in_the_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert records({"auth": {"password": ["MARKER7f3a9c"]}}) == []
    assert "MARKER7f3a9c" not in caplog.text


@pytest.mark.parametrize(
    "logs",
    [
        {"num_tokens": 123456789.0, "num_input_tokens_seen": 123456789, "token_accuracy": 0.5},
        {"eval_pass": 0.5, "eval_pass@1": 0.25, "eval_key": 0.125, "eval_otp": 3, "auth": 1},
        {"rewards/AccuracyRewardForChainOfThought2/mean": 0.5, "eval_answer_key": 12},
        {"eval_4b1d7e8a9c0f2e3d5b6a7c8d9e0f1a2b3c4d5e6f_loss": 0.5, "password": float("nan")},
    ],
)
def test_numbers_have_the_tags_and_values_of_the_stock_callback(logs: dict[str, Any]) -> None:
    assert str(dict(records(logs))) == str(rewrite_logs(logs))


def test_an_int_beyond_float_range_ends_at_infinity() -> None:
    assert records({"huge": -(10**400)}) == [("train/huge", float("-inf"))]
