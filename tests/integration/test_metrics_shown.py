"""What `compute_metrics` returns is shown and saved, and the best of it has a card."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.events import event_files, scalars, text, texts, values
from tests.tiny import Sequences, arguments, classifier, equal, trainer

EVALUATED: dict[str, Any] = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2}
SAVED: dict[str, Any] = {**EVALUATED, "save_strategy": "steps", "save_steps": 2}


def per_class(prediction: EvalPrediction) -> dict[str, Any]:
    """Metrics as scikit-learn returns them: an array with NaN, and a report."""
    share = np.mean(prediction.label_ids == 1)
    return {
        "f1": np.array([share, np.nan]),
        "support": torch.tensor([3, 13]),
        "report": {"precision": share, "of": {"recall": np.array([0.25, 0.5, 1.0])}},
    }


def named_classifier() -> Any:
    model = classifier()
    model.config.id2label = {0: "negative", 1: "positive"}
    return model


def built(
    directory: Path, changes: dict[str, Any], cls: type[Trainer] = TBTrainer, **given: Any
) -> Any:
    kind: type = TrainingArguments
    if cls is TBTrainer:
        kind, changes = TBTrainingArguments, {**changes, "telemetry_errors": "raise"}
    made = trainer(cls, arguments(kind, directory, **changes), model=named_classifier(), **given)
    return made


def shown(directory: Path) -> list[tuple[str, int, float]]:
    return [record for file in event_files(directory) for record in scalars(file)]


def test_arrays_and_dictionaries_become_curves(tmp_path: Path) -> None:
    built(tmp_path, SAVED, compute_metrics=per_class).train()
    found = {tag: value for tag, step, value in shown(tmp_path) if step == 4}
    assert np.isnan(found["eval/f1/positive"]) and found["eval/f1/negative"] > 0
    assert found["eval/report/precision"] == found["eval/f1/negative"]
    assert (found["eval/support/negative"], found["eval/support/positive"]) == (3, 13)
    assert [found[f"eval/report/of/recall/{index}"] for index in range(3)] == [0.25, 0.5, 1.0]


def test_a_checkpoint_after_arrays_is_saved_and_resumed(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        built(tmp_path / "stock", SAVED, Trainer, compute_metrics=per_class).train()
    built(tmp_path / "out", SAVED, compute_metrics=per_class).train()
    state = json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text())
    (saved,) = [e for e in state["log_history"] if "eval_f1" in e and e["step"] == 4]
    assert saved["eval_support"] == [3, 13] and np.isnan(saved["eval_f1"][1])
    resumed = built(tmp_path / "out", {**SAVED, "max_steps": 6}, compute_metrics=per_class)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    steps = [step for tag, step, _ in shown(tmp_path / "out") if tag == "eval/f1/negative"]
    assert sorted(steps) == [2, 4, 6]


def test_metrics_and_log_history_are_those_of_stock(tmp_path: Path) -> None:
    kept = []
    for cls in (Trainer, TBTrainer):
        made = built(tmp_path / cls.__name__, EVALUATED, cls, compute_metrics=per_class)
        made.train()
        returned = made.evaluate()
        entries = [e for e in made.state.log_history if "eval_f1" in e]
        kept.append([{k: e[k] for k in ("eval_f1", "eval_report")} for e in (*entries, returned)])
    stock, ours = kept
    assert len(ours) == 4 and repr(stock) == repr(ours)


def test_the_state_is_saved_after_a_training_with_arrays(tmp_path: Path) -> None:
    made = built(tmp_path, EVALUATED, compute_metrics=per_class)
    made.train()
    made.save_state()
    saved = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert [e["eval_support"] for e in saved if "eval_support" in e] == [[3, 13]] * 2
    kept = [e["eval_support"] for e in made.state.log_history if "eval_support" in e]
    assert equal(kept, [torch.tensor([3, 13])] * 2)


def test_a_checkpoint_of_ray_tune_holds_arrays(tmp_path: Path) -> None:
    made = built(tmp_path, EVALUATED, compute_metrics=per_class)
    made.train()
    made._tune_save_checkpoint(str(tmp_path / "tune"))
    assert (tmp_path / "tune" / "checkpoint-4" / "trainer_state.json").is_file()


def test_a_metric_called_like_the_card_is_not_described(tmp_path: Path) -> None:
    built(tmp_path, {}, compute_metrics=lambda prediction: {"best_f1": 0.5}).evaluate()
    described = {
        value.tag: value.metadata.summary_description
        for file in event_files(tmp_path)
        for _, value in values(file)
    }
    assert described["eval/best_f1"] == ""
    assert described["health/nonfinite_eval_batches"] != ""


def cards(directory: Path, tag: str) -> list[int]:
    """The steps of the cards under a tag."""
    found = [record for file in event_files(directory) for record in texts(file)]
    return [step for name, step in found if name == f"{tag}/text_summary"]


def test_each_evaluation_of_a_training_has_one_card(tmp_path: Path) -> None:
    made = built(tmp_path, {**EVALUATED, "max_steps": 6})
    made.evaluate()
    made.train()
    made.evaluate()
    assert cards(tmp_path, "eval/best_loss") == [2, 4, 6]


def test_the_card_says_when_early_stopping_ends_the_training(tmp_path: Path) -> None:
    changes = {**SAVED, "max_steps": 20, "metric_for_best_model": "eval_a_f1"}
    made = built(
        tmp_path,
        {**changes, "load_best_model_at_end": True},
        compute_metrics=lambda prediction: {"f1": 0.5},
        eval_dataset={"a": Sequences(8, seed=2), "b": Sequences(8, seed=3)},
        callbacks=[EarlyStoppingCallback(2, early_stopping_threshold=0.001)],
    )
    made.train()
    assert made.state.global_step == 6
    assert cards(tmp_path, "eval/best_a_f1") == [2, 4, 6]
    (file,) = event_files(tmp_path)
    first = text(file, "eval/best_a_f1/text_summary")
    assert "stops after 2 more evaluations without improvement of more than 0.001" in first


def test_the_best_evaluation_is_known_after_a_resume(tmp_path: Path) -> None:
    scores = iter([0.75, 0.5, 0.25])
    given: dict[str, Any] = {"compute_metrics": lambda prediction: {"f1": next(scores)}}
    changes = {**SAVED, "metric_for_best_model": "f1"}
    built(tmp_path, changes, **given).train()
    resumed = built(tmp_path, {**changes, "max_steps": 6}, **given)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert sorted(cards(tmp_path, "eval/best_f1")) == [2, 4, 6]
    last = text(event_files(tmp_path)[-1], "eval/best_f1/text_summary")
    assert "| value | 0.75 |" in last and "4 steps and 2 evaluations ago" in last
