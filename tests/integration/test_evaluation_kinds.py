"""Whatever an evaluation is: its metrics are stock's, and panels see every example."""

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.modeling_outputs import ModelOutput, SequenceClassifierOutput

from tbtrainer import Panel, TBTrainer, TBTrainerMixin, TBTrainingArguments
from tbtrainer.panels import KeptOfAllRanks, PanelBatch, PanelEvaluation
from tbtrainer.records import Records
from tests.panels import Counted
from tests.tiny import LENGTH, VOCABULARY, Sequences, arguments, classifier, trainer

ROWS = 19


class Told(Panel):
    """Keeps copies of what it is told, by evaluation."""

    def __init__(self) -> None:
        self.now: list[dict[str, Any]] = []
        self.evaluations: list[list[dict[str, Any]]] = []
        self.datasets: list[str | None] = []

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Begins a list of batches."""
        self.now = []
        return True

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> None:
        """Copies a batch."""
        shown = {"logits": batch.logits, "labels": batch.labels, "loss": batch.loss}
        self.now.append(copy.deepcopy({**shown, "size": batch.size, "inputs": batch.inputs}))

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> Records:
        """Keeps the batches of an evaluation that has ended."""
        assert kept.seen == sum(batch["size"] for batch in self.now)
        self.evaluations.append(self.now)
        self.datasets.append(evaluation.dataset)
        return ()

    def joined(self, what: str) -> Tensor | None:
        """Logits or labels of the only evaluation."""
        (batches,) = self.evaluations
        found = [batch[what] for batch in batches]
        return None if any(value is None for value in found) else torch.cat(found)


class Streamed(IterableDataset):
    """Sequences of unknown number."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        data = Sequences(ROWS, seed=1)
        return (data[row] for row in range(ROWS))


class Unlabelled(Sequences):
    """Sequences without labels."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: v for name, v in super().__getitem__(index).items() if name != "labels"}


class TwoLabels(Sequences):
    """Sequences with a start and an end."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        labels = {"start_positions": index % LENGTH, "end_positions": LENGTH - 1}
        return {"input_ids": self.tokens[index], **labels}


@dataclass
class Spans(ModelOutput):
    """What `Spanning` returns."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None


class Spanning(nn.Module):
    """Predicts two places of each sequence."""

    def __init__(self) -> None:
        super().__init__()
        set_seed(0)
        self.places = nn.Embedding(VOCABULARY, 2)

    def forward(self, input_ids: Tensor, start_positions: Tensor, end_positions: Tensor) -> Spans:
        start, end = self.places(input_ids).unbind(-1)
        compared = nn.functional.cross_entropy
        loss = compared(start, start_positions) + compared(end, end_positions)
        return Spans(loss, start, end)


class Tupled(nn.Module):
    """Returns its loss, and then a tuple."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        set_seed(0)
        self.classes = nn.Embedding(VOCABULARY, 2)
        self.parts = parts

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        logits = self.classes(input_ids).mean(1)
        loss = nn.functional.cross_entropy(logits, labels)
        return (loss, *[logits + part for part in range(self.parts)])


class WithoutLogits(nn.Module):
    """Returns its loss alone, as fused losses do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = classifier()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        found = self.inner(input_ids, attention_mask, labels=labels)
        return SequenceClassifierOutput(loss=found.loss)


def scored(prediction: Any) -> dict[str, float]:
    """Metrics that depend on every bit of what was predicted."""
    parts = prediction.predictions
    parts = parts if isinstance(parts, list | tuple) else [parts]
    values = [np.asarray(part, dtype=np.float64) for part in parts]
    return {"sum": sum(float(value.sum()) for value in values)}


class ByBatch:
    """A sum over all predictions, for `batch_eval_metrics`: one batch after the other."""

    def __init__(self) -> None:
        self.sum = 0.0

    def __call__(self, prediction: Any, compute_result: bool) -> dict[str, float]:
        self.sum += float(prediction.predictions.double().sum())
        return {"sum": self.sum} if compute_result else {}


def own_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """A loss that the model does not compute."""
    return nn.functional.mse_loss(outputs["logits"][:, 0], labels.float())


@dataclass
class Kind:
    """One kind of evaluation.

    Attributes:
        values: Of the trainer.
        changes: Of its arguments.
        has_logits: Whether panels see logits.
        labels: What panels see as labels.
    """

    values: dict[str, Callable[[], Any]] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    has_logits: bool = True
    labels: Any = field(default_factory=lambda: Sequences(ROWS, seed=1).labels)


def data(cls: type = Sequences) -> dict[str, Callable[[], Any]]:
    return {"eval_dataset": lambda: cls(ROWS, seed=1)}


SCORED = {"compute_metrics": lambda: scored}
KINDS: dict[str, Kind] = {
    "loss only": Kind(),
    "scored": Kind(SCORED),
    "only the loss is asked for": Kind(SCORED, {"prediction_loss_only": True}),
    "preprocessed": Kind(
        {**SCORED, "preprocess_logits_for_metrics": lambda: lambda logits, _: logits.argmax(-1)}
    ),
    "scored by batch": Kind({"compute_metrics": ByBatch}, {"batch_eval_metrics": True}),
    "accumulated": Kind(SCORED, {"eval_accumulation_steps": 1}),
    "not concatenated": Kind(SCORED, {"eval_do_concat_batches": False}),
    "inputs for metrics": Kind(SCORED, {"include_for_metrics": ["inputs", "loss"]}),
    "smoothed labels": Kind(SCORED, {"label_smoothing_factor": 0.1}),
    "a loss of its own": Kind({**SCORED, "compute_loss_func": lambda: own_loss}),
    "iterable": Kind({**SCORED, "eval_dataset": Streamed}),
    "no last batch": Kind(
        SCORED, {"dataloader_drop_last": True}, labels=Sequences(ROWS, seed=1).labels[:16]
    ),
    "no labels": Kind({**SCORED, **data(Unlabelled)}, has_logits=True, labels=None),
    "no labels, no metrics": Kind(data(Unlabelled), has_logits=False, labels=None),
    "several labels": Kind(
        {**data(TwoLabels), "model": Spanning},
        {"label_names": ["start_positions", "end_positions"]},
    ),
    "a tuple": Kind({**SCORED, "model": lambda: Tupled(1)}),
    "a tuple of several": Kind({**SCORED, "model": lambda: Tupled(3)}),
    "no logits": Kind({"model": WithoutLogits}, has_logits=False),
    "half precision": Kind(SCORED, {"bf16_full_eval": True}),
    "mixed precision": Kind(SCORED, {"bf16": True}),
    "compiled": Kind(SCORED, {"torch_compile": True, "torch_compile_backend": "eager"}),
}


def evaluated(cls: Any, directory: Path, kind: Kind, **own: Any) -> Any:
    """Metrics of an evaluation without times, and the random numbers that follow."""
    args = arguments(own.pop("args", TrainingArguments), directory, **kind.changes, **own)
    values: dict[str, Any] = {"eval_dataset": lambda: Sequences(ROWS, seed=1), **kind.values}
    made = trainer(cls, args, **{name: make() for name, make in values.items()})
    set_seed(5)
    metrics = made.evaluate()
    kept = {k: v for k, v in metrics.items() if not k.endswith(("time", "per_second"))}
    return kept, torch.rand(1).item(), float(np.random.rand()), random.random()


@pytest.mark.parametrize("name", KINDS)
def test_metrics_are_stocks_and_panels_see_all(tmp_path: Path, name: str) -> None:
    kind, panel = KINDS[name], Told()
    stock = evaluated(Trainer, tmp_path / "stock", kind)
    ours = evaluated(
        TBTrainer,
        tmp_path / "ours",
        kind,
        args=TBTrainingArguments,
        evaluation_panels=["auto", panel],
        telemetry_errors="raise",
    )
    assert ours == stock
    (batches,) = panel.evaluations
    assert sum(batch["size"] for batch in batches) == (16 if name == "no last batch" else ROWS)
    logits = panel.joined("logits")
    assert (logits is not None) == kind.has_logits
    if name == "several labels":
        assert all(len(batch["labels"]) == 2 for batch in batches)
    elif kind.labels is None:
        assert panel.joined("labels") is None
    else:
        labels = panel.joined("labels")
        assert labels is not None and labels.tolist() == kind.labels.tolist()


# ---- When an evaluation is ----


def observed(directory: Path, panel: Panel, cls: Any = TBTrainer, **changes: Any) -> Any:
    """A trainer with one panel, that raises errors of it."""
    values = {name: changes.pop(name) for name in ("callbacks", "eval_dataset") if name in changes}
    own = {"evaluation_panels": [panel], "telemetry_errors": "raise"}
    args = arguments(TBTrainingArguments, directory, **own, **changes)
    return trainer(cls, args, **{"eval_dataset": Sequences(ROWS, seed=1), **values})


def sizes(panel: Told) -> list[int]:
    """Numbers of examples, by evaluation."""
    return [sum(batch["size"] for batch in batches) for batches in panel.evaluations]


def test_evaluations_around_a_training_are_shown(tmp_path: Path) -> None:
    panel = Told()
    made = observed(tmp_path, panel, eval_strategy="steps", eval_steps=5)
    made.evaluate()
    made.train()
    made.evaluate(Sequences(3))
    assert sizes(panel) == [ROWS, ROWS, ROWS, 3]


def test_datasets_of_a_dictionary_have_their_names(tmp_path: Path) -> None:
    panel = Told()
    made = observed(tmp_path, panel, eval_dataset={"a": Sequences(3), "b": Sequences(5)})
    made.evaluate()
    made.evaluate({"c": Sequences(2)}, metric_key_prefix="test")
    assert panel.datasets == ["a", "b", "test_c"]
    assert sizes(panel) == [3, 5, 2]


@pytest.mark.parametrize(
    "prefix, dataset", [("eval", None), ("test", "test"), ("eval_news", "news")]
)
def test_an_evaluation_has_the_name_of_its_prefix(
    tmp_path: Path, prefix: str, dataset: str | None
) -> None:
    panel = Told()
    observed(tmp_path, panel).evaluate(metric_key_prefix=prefix)
    assert panel.datasets == [dataset]


class Predicting(TrainerCallback):
    """Predicts something else in the middle of an evaluation."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.done = False

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        """Predicts once."""
        if not self.done:
            self.done = True
            self.trainer.predict(Sequences(7))


@pytest.mark.parametrize("trains", [True, False])
def test_a_prediction_inside_an_evaluation_is_not_shown(tmp_path: Path, trains: bool) -> None:
    panel, predicting = Told(), Predicting()
    made = observed(tmp_path, panel, eval_strategy="steps", eval_steps=10, callbacks=[predicting])
    predicting.trainer = made
    if trains:
        made.train()
    else:
        made.evaluate()
    assert predicting.done and sizes(panel) == [ROWS]


class Nested(TBTrainerMixin, Trainer):
    """Evaluates something else after each evaluation, as part of it."""

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates twice."""
        found = super().evaluation_loop(*args, **kwargs)
        if kwargs["metric_key_prefix"] == "eval":
            self.evaluate(Sequences(7), metric_key_prefix="eval_other")
        return found


def test_an_evaluation_inside_another_is_shown_beside_it(tmp_path: Path) -> None:
    panel = Counted()
    observed(tmp_path, panel, Nested).evaluate()
    assert [(e.dataset, k.seen) for e, k in zip(panel.evaluations, panel.kept, strict=True)] == [
        ("other", 7),
        (None, ROWS),
    ]


class Broken(Sequences):
    """Fails once, at the last example."""

    failed = False

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == ROWS - 1 and not self.failed:
            self.failed = True
            raise OSError("the disk is gone")
        return super().__getitem__(index)


def test_an_evaluation_after_a_broken_one_is_whole(tmp_path: Path) -> None:
    panel = Told()
    made = observed(tmp_path, panel, eval_dataset=Broken(ROWS))
    with pytest.raises(OSError, match="the disk is gone"):
        made.evaluate()
    made.evaluate()
    assert sizes(panel) == [ROWS]


def test_a_broken_evaluation_keeps_no_outputs(tmp_path: Path) -> None:
    made = observed(tmp_path, Told())

    def fail(*args: Any, **kwargs: Any) -> Any:
        made.compute_loss(made.model, args[1], return_outputs=True)
        raise OSError("no such luck")

    made.prediction_step = fail
    with pytest.raises(OSError, match="no such luck"):
        made.evaluate()
    assert made._tb._evaluations._forward is None
    assert "compute_loss" not in vars(made)


def test_an_evaluation_without_examples_is_stocks(tmp_path: Path) -> None:
    panel, nothing = Told(), Kind({"eval_dataset": lambda: Sequences(0)})
    found = []
    for cls, own in (
        (Trainer, {}),
        (TBTrainer, {"args": TBTrainingArguments, "evaluation_panels": ["auto", panel]}),
    ):
        try:
            found.append(evaluated(cls, tmp_path / cls.__name__, nothing, **own))
        except Exception as error:
            found.append((type(error), str(error)))
    assert found[0] == found[1]
    assert panel.evaluations == []
