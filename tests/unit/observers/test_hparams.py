"""The row and the columns of the HParams dashboard, and when they are written."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn
from transformers import TrainingArguments

from tbtrainer import TBSeq2SeqTrainingArguments
from tbtrainer.dashboard_records import HParamsColumns, HParamsEnd, HParamsRow
from tbtrainer.observers.facts import Evaluation
from tbtrainer.observers.hparams import HParams, metrics_shown
from tbtrainer.observers.hyperparameters import (
    MOST_PROMINENT,
    columns_of,
    trial_parameters,
    values_of,
)
from tbtrainer.sharding import parameter_table
from tests.tiny import classifier

METRICS = {"eval_loss": 0.5, "eval_accuracy": 0.75, "eval_runtime": 1.0}


def training_of(model: nn.Module | None = None, writes: bool = True, **changes: Any) -> Any:
    """A training as the observer reads it."""
    model = model or classifier()
    given = TrainingArguments("out", report_to="none", use_cpu=True, **changes)
    return SimpleNamespace(
        unwrapped_model=model,
        parameters=parameter_table(model, is_world_process_zero=True),
        accelerator=SimpleNamespace(mixed_precision="no"),
        training_arguments=given,
        schedule=SimpleNamespace(last=120),
        is_world_process_zero=writes,
    )


def in_training(expects: bool = True, trial: Any = None, **changes: Any) -> HParams:
    """An observer whose training has begun."""
    observer = HParams(lambda: expects)
    observer.begin(trial)
    assert list(observer.run_begins(0, training_of(**changes))) == []
    return observer


def evaluated(observer: HParams, metrics: dict[str, Any], is_part: bool = False) -> list[Any]:
    """What the observer returns after an evaluation."""
    evaluation = Evaluation(metrics, None, 1.0, is_part)
    observer.metrics.add(evaluation)
    return list(observer.evaluation_ended(2, evaluation))


def kinds(records: Any) -> list[type]:
    """The types of some records."""
    return [type(record) for record in records]


# ---- When they are written ----


def test_the_row_is_written_after_the_first_step() -> None:
    observer = in_training()
    assert kinds(observer.step_taken(1)) == [HParamsRow]
    assert kinds(observer.step_taken(2)) == []


def test_the_columns_wait_for_the_first_evaluation() -> None:
    observer = in_training()
    observer.step_taken(1)
    assert evaluated(observer, METRICS, is_part=True) == []
    assert kinds(evaluated(observer, METRICS)) == [HParamsColumns]
    assert evaluated(observer, {**METRICS, "eval_f1": 0.5}) == []


def test_an_evaluation_before_training_makes_the_columns_known() -> None:
    observer = HParams(lambda: True)
    assert evaluated(observer, METRICS) == []
    observer.run_begins(0, training_of())
    assert kinds(observer.step_taken(1)) == [HParamsRow, HParamsColumns]


def test_without_evaluation_data_the_columns_do_not_wait() -> None:
    assert kinds(in_training(expects=False).step_taken(1)) == [HParamsRow, HParamsColumns]


def test_an_evaluation_after_training_still_gives_columns() -> None:
    observer = in_training()
    observer.step_taken(1)
    assert kinds(observer.ended(None)) == [HParamsEnd]
    observer.close()
    assert kinds(evaluated(observer, METRICS)) == [HParamsColumns]


@pytest.mark.parametrize(
    ("error", "is_success"),
    [(None, True), (ValueError(), False), (KeyboardInterrupt(), False), (SystemExit(), False)],
)
def test_the_end_says_whether_an_error_ended_the_training(
    error: BaseException | None, is_success: bool
) -> None:
    observer = in_training()
    observer.step_taken(1)
    assert list(observer.ended(error)) == [HParamsEnd(is_success)]


def test_a_pruned_trial_ended_as_planned() -> None:
    pruned = pytest.importorskip("optuna").TrialPruned()
    assert list(in_training().ended(pruned))[-1] == HParamsEnd(True)


def test_a_training_that_was_stopped_for_nan_is_no_success() -> None:
    observer = in_training()
    observer.step_taken(1)
    observer.step_refused(2, SimpleNamespace())  # type: ignore[arg-type]
    assert list(observer.ended(None)) == [HParamsEnd(False)]


def test_a_training_that_fails_at_once_has_a_row() -> None:
    assert kinds(in_training().ended(ValueError())) == [HParamsRow, HParamsEnd]


def test_a_training_without_a_step_has_an_end() -> None:
    observer = in_training()
    observer.begin(None)
    assert list(observer.ended(None)) == [HParamsEnd(True)]


def test_other_ranks_write_nothing() -> None:
    observer = HParams(lambda: False)
    observer.run_begins(0, training_of(writes=False))
    assert list(observer.step_taken(1)) == []


# ---- The values ----


def test_the_values_are_those_of_the_training() -> None:
    model = classifier()
    model.bert.requires_grad_(False)
    training = training_of(
        model,
        learning_rate=0.25,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
        seed=7,
    )
    found = values_of(training, {})
    expected = {
        "learning_rate": 0.25,
        "lr_scheduler_type": "cosine",
        "train_batch_size": 12.0,
        "total_steps": 120.0,
        "seed": 7.0,
        "dtype": "float32",
        "processes": 1.0,
        "sharding": "none",
        "model_type": "bert",
        "model": "BertForSequenceClassification",
        "trained_parameters": 34.0,
        "parameters": float(sum(p.numel() for p in model.parameters())),
    }
    assert {name: found[name] for name in expected} == expected


def test_epochs_that_the_trainer_ignores_are_left_out() -> None:
    assert values_of(training_of(), {})["num_train_epochs"] == 3.0
    assert "num_train_epochs" not in values_of(training_of(max_steps=50), {})


def test_every_value_has_a_column_of_its_kind() -> None:
    kinds_of = {"number": float, "text": str, "flag": bool}
    columns = {hparam.name: kinds_of[hparam.kind] for hparam in columns_of({})}
    for name, value in values_of(training_of(), {}).items():
        assert type(value) is columns[name], name


def test_the_columns_are_the_same_for_all_settings() -> None:
    assert columns_of({}) == columns_of({})
    names = {hparam.name for hparam in columns_of({})}
    for changes in ({"max_grad_norm": 0.0}, {"optim": "sgd", "warmup_steps": 5}):
        assert set(values_of(training_of(**changes), {})) <= names


def test_each_column_is_an_argument_or_is_derived() -> None:
    fields = set(TBSeq2SeqTrainingArguments.__dataclass_fields__)
    described = {hparam.name for hparam in columns_of({}) if hparam.description}
    others = {hparam.name for hparam in columns_of({})} - fields - described
    # `warmup_ratio` is a field of transformers 4.57 alone.
    assert others <= {"processes", "model_type", "warmup_ratio"}


def test_what_a_search_chose_is_shown_first() -> None:
    trial = SimpleNamespace(params={"dropout": 0.25, "learning_rate": 0.5, "kind": "a"})
    searched = trial_parameters(trial)
    columns = {hparam.name: hparam for hparam in columns_of(searched)}
    prominent = {name for name, hparam in columns.items() if hparam.is_prominent}
    assert len(prominent) == MOST_PROMINENT
    assert prominent >= set(trial.params)
    assert (columns["dropout"].kind, columns["kind"].kind) == ("number", "text")
    found = values_of(training_of(learning_rate=0.5), searched)
    assert (found["dropout"], found["kind"], found["learning_rate"]) == (0.25, "a", 0.5)


@pytest.mark.parametrize("trial", [None, {"lr": 1}, SimpleNamespace(params={"lr": 1})])
def test_trials_of_every_library_are_read(trial: Any) -> None:
    assert trial_parameters(trial) == ({} if trial is None else {"lr": 1})


# ---- The metrics ----


def shown(metrics: dict[str, Any], compared: str) -> list[str]:
    """Tags of the metrics, in their order."""
    observer = HParams(lambda: True)
    evaluated(observer, metrics)
    return [metric.tag for metric in metrics_shown(observer.metrics, compared)]


def test_the_compared_metric_comes_first_with_its_best_value() -> None:
    assert shown({"eval_f1": 0.5, **METRICS}, "eval_accuracy") == [
        *("hparams/best_accuracy", "eval/accuracy", "eval/loss", "eval/f1", "train/loss"),
    ]


def test_a_compared_metric_that_does_not_exist_has_no_column() -> None:
    assert shown(METRICS, "eval_of_mine") == ["eval/loss", "eval/accuracy", "train/loss"]


def test_without_evaluations_the_loss_of_training_is_shown() -> None:
    assert shown({}, "eval_loss") == ["train/loss"]
