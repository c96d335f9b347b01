"""Every trial of a search has a run of its own, whatever names the trials."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.hp_naming import TrialShortNamer

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.events import event_files, scalars
from tests.tiny import Sequences, arguments, classifier

optuna = pytest.importorskip("optuna")


class ShortNames(TrialShortNamer):
    """As in the tests of transformers."""

    DEFAULTS = {"learning_rate": 1e-3}
    NAMING_INFO: dict[str, Any] | None = None


def by_parameter(trial: Any) -> str:
    return f"lr={trial.params['learning_rate']:.1e}"


def by_short_name(trial: Any) -> str:
    return ShortNames.shortname(trial.params)


def searched(directory: Path, hp_name: Callable | None, **changes: Any) -> TBTrainer:
    """A search of three trials of ten steps each."""
    made = TBTrainer(
        args=arguments(TBTrainingArguments, directory, **changes),
        model_init=lambda: classifier(),
        train_dataset=Sequences(64),
        eval_dataset=Sequences(16, seed=1),
    )
    rates = iter([1e-3, 2e-3, 4e-3])
    made.hyperparameter_search(
        hp_space=lambda trial: {
            "learning_rate": trial.suggest_float("learning_rate", rate := next(rates), rate)
        },
        compute_objective=lambda metrics: metrics["eval_loss"],
        hp_name=hp_name,
        backend="optuna",
        n_trials=3,
    )
    return made


@pytest.mark.parametrize(
    ("hp_name", "names"),
    [
        (by_parameter, {"lr=1.0e-03", "lr=2.0e-03", "lr=4.0e-03"}),
        (by_short_name, {"hp", "hp_lr0.002", "hp_lr0.004"}),
        (None, {"run-0", "run-1", "run-2"}),
    ],
    ids=["parameters", "short names", "default"],
)
def test_each_trial_is_one_clean_curve(
    hp_name: Callable[[Any], str] | None,
    names: set[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="tbtrainer"):
        searched(tmp_path, hp_name, eval_strategy="steps", eval_steps=5, telemetry_errors="raise")
    runs = {file.parent.name: file for file in event_files(tmp_path)}
    assert set(runs) == names
    for file in runs.values():
        steps = [step for tag, step, _ in scalars(file) if tag == "train/loss"]
        assert steps == [2, 4, 6, 8, 10]
    assert [r.message for r in caplog.records if r.name.startswith("tbtrainer")] == []
