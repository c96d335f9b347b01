"""A state is saved whatever was logged: by stock where stock can, else with lists for arrays."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerState

from tbtrainer.log_history import as_json, saved_as_json


def saved(entry: dict[str, Any], path: Path) -> tuple[TrainerState, str]:
    """A state with one entry, and the file that it was saved to."""
    state = TrainerState(log_history=[entry])
    with saved_as_json(state):
        state.save_to_json(str(path))
    return state, path.read_text()


def test_what_stock_can_save_is_saved_by_stock(tmp_path: Path) -> None:
    entry = {"loss": float("nan"), "f1": [0.5, 1.0], "of": {10: 1, 9: (2, None)}, "on": {True: 1}}
    state, text = saved(entry, tmp_path / "ours.json")
    state.save_to_json(str(tmp_path / "stock.json"))
    assert text == (tmp_path / "stock.json").read_text()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array([0.5, 1.0]), [0.5, 1.0]),
        (np.eye(2), [[1.0, 0.0], [0.0, 1.0]]),
        (torch.tensor([0.5, 1.0], dtype=torch.bfloat16), [0.5, 1.0]),
        (torch.ones(2, requires_grad=True) * 2, [2.0, 2.0]),
        (np.float32(0.5), 0.5),
        ([np.int64(3), {"a": torch.tensor(4)}], [3, {"a": 4}]),
        ({np.int64(1): 2.0}, {"1": 2.0}),
        ({1: 2.0, "a": np.array([3])}, {"1": 2.0, "a": [3]}),
        (Path("x"), "x"),
        ({"a"}, ["a"]),
        (1j, "1j"),
    ],
    ids=repr,
)
def test_what_stock_cannot_save_is_saved(value: Any, expected: Any, tmp_path: Path) -> None:
    with pytest.raises((TypeError, RuntimeError)):
        TrainerState(log_history=[{"f1": value}]).save_to_json(str(tmp_path / "stock.json"))
    state, text = saved({"f1": value, "of": {10: 1, 9: 2}}, tmp_path / "ours.json")
    assert json.loads(text)["log_history"] == [{"f1": expected, "of": {"9": 2, "10": 1}}]
    assert state.log_history[0]["f1"] is value


def test_the_entry_beside_an_array_keeps_its_form() -> None:
    inner = {10: 1, 9: (2, None)}
    assert as_json({"f1": np.ones(2), "of": inner})["of"] is inner


def test_an_error_of_the_disk_is_stocks(tmp_path: Path) -> None:
    state = TrainerState(log_history=[{"f1": np.ones(2)}])
    before = state.log_history
    with saved_as_json(state), pytest.raises(FileNotFoundError):
        state.save_to_json(str(tmp_path / "nowhere" / "state.json"))
    assert state.log_history is before


def test_the_method_of_the_state_is_restored() -> None:
    state = TrainerState()
    with saved_as_json(state):
        assert "save_to_json" in vars(state)
    assert "save_to_json" not in vars(state)
