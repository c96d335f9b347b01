"""What a trainer's calls do to its run and its observers, with a small stand-in for the trainer."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn
from transformers import TrainingArguments
from transformers.integrations import TensorBoardCallback

from tbtrainer import Observer
from tbtrainer.telemetry import Telemetry


class Entries(Observer):
    """Keeps each log entry with its step."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, dict[str, Any]]] = []

    def entry_logged(self, step: int, entry: Mapping[str, Any]) -> None:
        self.entries.append((step, dict(entry)))


def telemetry_in(directory: Path, *callbacks: Any) -> tuple[Any, Telemetry]:
    """A stand-in that has taken three steps, and its telemetry."""
    trainer = SimpleNamespace(
        args=TrainingArguments(str(directory), report_to="none"),
        state=SimpleNamespace(global_step=3, log_history=[]),
        callback_handler=SimpleNamespace(callbacks=list(callbacks)),
        model=nn.Linear(2, 1),
        is_world_process_zero=lambda: True,
    )
    return trainer, Telemetry(trainer, None)


def test_an_entry_logged_by_two_calls_is_shown_once(tmp_path: Path) -> None:
    trainer, telemetry = telemetry_in(tmp_path)
    telemetry.observers.add(observer := Entries())
    with telemetry.entries_logged({}), telemetry.entries_logged({}):
        trainer.state.log_history.append({"loss": 0.5, "step": 3})
    assert observer.entries == [(3, {"loss": 0.5})]


def test_a_step_of_the_users_own_is_a_value(tmp_path: Path) -> None:
    trainer, telemetry = telemetry_in(tmp_path)
    telemetry.observers.add(observer := Entries())
    with telemetry.entries_logged({"loss": 0.5, "step": 70}):
        trainer.state.log_history.append({"loss": 0.5, "step": 3})
    assert observer.entries == [(3, {"loss": 0.5, "step": 70})]


def test_the_run_stays_open_until_the_outermost_use_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, telemetry = telemetry_in(tmp_path)
    closed: list[str] = []
    monkeypatch.setattr(telemetry.run, "close", lambda: closed.append("training"))
    monkeypatch.setattr(telemetry.run, "release", lambda: closed.append("evaluation"))
    with telemetry.training():
        with telemetry.evaluation("eval"):
            pass
        assert closed == []
    assert closed == ["training"]
    with telemetry.evaluation("eval"):
        pass
    assert closed == ["training", "evaluation"]


def test_states_of_an_earlier_training_are_not_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no directory")

    _, telemetry = telemetry_in(tmp_path)
    telemetry.observers.saved_states = {"SpikeScores": {}}
    monkeypatch.setattr(telemetry.run, "begin_training", fail)
    with telemetry.training(), telemetry.attempt(None, None):
        pass
    assert telemetry.observers.saved_states == {}


def test_only_the_checkpoint_that_is_saved_is_marked(tmp_path: Path) -> None:
    _, telemetry = telemetry_in(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    telemetry.mark_checkpoint(str(other))
    assert list(other.iterdir()) == []


def test_the_callback_of_stock_alone_is_removed(tmp_path: Path) -> None:
    class Subclass(TensorBoardCallback):
        pass

    kept = [Subclass(), TensorBoardCallback(tb_writer=SimpleNamespace())]
    trainer, telemetry = telemetry_in(tmp_path, TensorBoardCallback(), *kept)
    telemetry.check()
    assert trainer.callback_handler.callbacks == kept
