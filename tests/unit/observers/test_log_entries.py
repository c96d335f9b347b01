"""Log entries become tags and values."""

import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.integrations.integration_utils import rewrite_logs

from tbtrainer.observers.log_entries import MOST_NUMBERS, LogEntries, class_names, stock_tag
from tbtrainer.records import Scalar


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
        [0.5],
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


@pytest.mark.parametrize(
    "value",
    [[0.25, 0.75], (0.25, 0.75), np.array([0.25, 0.75]), torch.tensor([0.25, 0.75])],
    ids=lambda value: type(value).__name__,
)
def test_a_number_per_class_has_the_name_of_the_class(value: Any) -> None:
    observer = LogEntries(lambda: ["negative", "positive"])
    shown = [("eval/f1/negative", 0.25), ("eval/f1/positive", 0.75)]
    assert records({"eval_f1": value}, observer) == shown


@pytest.mark.parametrize("names", [[], ["a", "b"], ["a", "b", "c", "d"], ["a", "b", "a"]])
def test_other_lists_are_shown_by_index(names: list[str]) -> None:
    shown = records({"eval_f1": [1.0, 2.0, 3.0]}, LogEntries(lambda: names))
    assert [tag for tag, _ in shown] == ["eval/f1/0", "eval/f1/1", "eval/f1/2"]


def test_a_class_without_examples_is_shown_as_nan() -> None:
    shown = records({"eval_f1": np.array([0.5, np.nan])})
    assert str(shown) == "[('eval/f1/0', 0.5), ('eval/f1/1', nan)]"


def test_a_list_in_a_dictionary_has_names_of_classes() -> None:
    logs = {"eval_report": {"f1": np.array([0.25, 0.75]), "precision": 0.5}}
    assert records(logs, LogEntries(lambda: ["no", "yes"])) == [
        ("eval/report/f1/no", 0.25),
        ("eval/report/f1/yes", 0.75),
        ("eval/report/precision", 0.5),
    ]


def test_none_in_a_list_is_left_out() -> None:
    assert records({"eval_f1": [None, 0.5]}) == [("eval/f1/1", 0.5)]


def test_up_to_a_hundred_numbers_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    observer = LogEntries()
    with caplog.at_level(logging.WARNING):
        assert len(records({"eval_f1": np.ones(MOST_NUMBERS)}, observer)) == MOST_NUMBERS == 100
        assert caplog.records == []
        for _ in range(2):
            assert records({"eval_f1": np.ones(MOST_NUMBERS + 1)}, observer) == []
    (warning,) = caplog.records
    assert "logged as 'eval_f1'" in warning.message and "shape (101,)" in warning.message


@pytest.mark.parametrize(
    "name", ["hf_MARKER7f3a9cabcdefgh", "password=MARKER7f3a9c", "https://u:MARKER7f3a9c@host"]
)
def test_a_secret_in_a_class_name_is_hidden(name: str) -> None:
    shown = records({"eval_f1": [0.25, 0.5]}, LogEntries(lambda: [name, "other"]))
    assert [value for _, value in shown] == [0.25, 0.5]
    assert "MARKER7f3a9c" not in str(shown)


def test_counts_of_a_class_called_like_a_secret_are_shown() -> None:
    observer = LogEntries(lambda: ["OTHER", "PASSWORD"])
    shown = records({"eval_support": [123456, 234567]}, observer)
    assert shown == [("eval/support/OTHER", 123456), ("eval/support/PASSWORD", 234567)]


@pytest.mark.parametrize(
    ("id2label", "names"),
    [
        ({1: "b", 0: "a"}, ["a", "b"]),
        ({"10": "c", "2": "b"}, ["b", "c"]),
        ({0: "LABEL_0"}, ["LABEL_0"]),
        ({"a": 0}, []),
        (None, []),
        (["a"], []),
    ],
    ids=str,
)
def test_class_names_are_ordered_by_number(id2label: Any, names: list[str]) -> None:
    model = SimpleNamespace(config=SimpleNamespace(id2label=id2label))
    assert class_names(model) == names


def test_a_model_without_configuration_has_no_class_names() -> None:
    assert class_names(torch.nn.Linear(1, 1)) == class_names(None) == []


@pytest.mark.parametrize(
    "value",
    [
        ["a", "b"],
        [1.0, "a"],
        [[1.0], [2.0]],
        np.ones((2, 2)),
        np.array(["a", "b"]),
        np.ones(2, complex),
        torch.ones(2, 2),
        torch.ones(2, device="meta"),
    ],
    ids=repr,
)
def test_what_cannot_be_shown_is_warned_of_once_per_key(
    value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    observer = LogEntries()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert records({"odd": value, "other": value}, observer) == []
    assert [r.message.count("'odd'") for r in caplog.records] == [1, 0]


def test_a_key_warned_of_is_shown_when_it_is_numeric(caplog: pytest.LogCaptureFixture) -> None:
    observer = LogEntries()
    odd = ["a", "b"]
    with caplog.at_level(logging.WARNING):
        shown = [(records({"f1": value}, observer)) for value in (odd, 0.5, odd, 0.75)]
    assert shown == [[], [("train/f1", 0.5)], [], [("train/f1", 0.75)]]
    assert len(caplog.records) == 1
    assert "because it is of type list of length 2" in caplog.text


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
        ((tag, value),) = records({key: 0.5, "of": {key: ["a", "b"]}})
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


def test_only_what_callbacks_get_too_counts_as_logged() -> None:
    entry = {"loss": 0.5, "eval_accuracy": np.float32(0.25), "f1": {"a": 1.0}, "per": [1.0, 2.0]}
    found = LogEntries(lambda: []).entry_logged(1, entry)
    logged = {record.tag: record.is_logged for record in found if isinstance(record, Scalar)}
    assert logged == {
        "train/loss": True,
        "eval/accuracy": True,
        "train/f1/a": False,
        "train/per/0": False,
        "train/per/1": False,
    }
