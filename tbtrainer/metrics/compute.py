"""`compute_metrics` functions: turn predictions into what metrics expect, and compute them."""

import inspect
from collections.abc import Iterator
from typing import Any, Literal

import evaluate
import numpy as np
from numpy.typing import NDArray
from transformers import EvalPrediction

from tbtrainer.metrics.bundled import BundledMetric, Perplexity
from tbtrainer.metrics.pairs import (
    Pairs,
    as_array,
    class_pairs,
    first_output,
    joined,
    labels_array,
    loss_pairs,
    text_pairs,
    value_pairs,
)
from tbtrainer.metrics.sources import load_metric

Kind = Literal["classes", "values", "token losses", "texts"]
AVERAGES = ("auto", "binary", "micro", "macro", "weighted", None)


def make_compute_metrics(
    *metrics: str | evaluate.EvaluationModule,
    average: str | None = "auto",
    ignore_index: int = -100,
    next_token: bool | None = None,
    tokenizer: Any = None,
    network_seconds: float = 3.0,
) -> "ComputeMetrics":
    """Builds the `compute_metrics` of a `Trainer` from metrics of the `evaluate` library.

    The features that a metric declares decide what it is given. A metric of integers (accuracy, F1,
    …) gets classes: the index of the largest logit along the last dimension, or the predictions
    themselves if they are integers. A metric of floats (MSE, MAE, …) gets values, without a last
    dimension of size 1. Perplexity gets a loss per token; `next_token_losses` makes them on the
    device. A metric of texts gets the texts of the labels and of generated tokens, as
    `predict_with_generate=True` makes them, or of the tokens with the largest logits. If the
    predictions are a tuple, as those of a model that also returns hidden states, its first entry is
    used.

    Args:
        *metrics: Names, paths of metric scripts, `evaluate` objects, or `evaluate.combine([...])`.
            Names are looked up on the hub, if it can be reached, and in the `evaluate` cache.
            accuracy, precision, recall, f1, mse, mae and perplexity work without both, and so do
            sacrebleu and rouge with the packages of the extra `text-metrics`.
        average: For metrics that average over classes (precision, recall, f1): `"binary"`,
            `"micro"`, `"macro"`, `"weighted"`, or `"auto"`, which is `"binary"` for two classes and
            `"macro"` for more. The number of classes is that of the logits. If the predictions are
            integers, there are two classes if all predictions and labels are 0 or 1. `None` gives a
            list with one value per class, in their order. With tbtrainer's own metrics it is NaN
            for a class that occurs neither in predictions nor in labels. If the predictions are
            integers, the list ends with the last class that occurs.
        ignore_index: Integer labels of this value are left out. No float label is left out.
        next_token: Whether the prediction at a position is compared with the label at the next
            position, as for a causal language model. `None`: only for perplexity. With a metric of
            texts, `True` says that integer predictions are not generated tokens but those of
            `predicted_classes`.
        tokenizer: A tokenizer or processor with `batch_decode`, for metrics of texts. Special
            tokens and those of `ignore_index` are left out, and white space at both ends of a text.
        network_seconds: How long to wait for the hub. It is contacted once per process.

    Returns:
        A function of an `EvalPrediction` that returns a dictionary of floats, or of lists of floats
        with `average=None`. It also works with `batch_eval_metrics=True`. `Trainer` gathers the
        predictions before it calls the function, so every rank computes equal numbers.

    Raises:
        ValueError: A name is not found (the message lists where it was looked up), a metric needs
            other inputs than predictions and references, a metric of texts has no tokenizer, or an
            argument is not allowed.
        ImportError: A metric needs a package that is not installed. The message names it.

    Example:
        >>> compute_metrics = make_compute_metrics("mae")
        >>> compute_metrics(EvalPrediction(np.array([[1.0], [2.0]]), np.array([1.0, 4.0])))
        {'mae': 1.0}
    """
    if not metrics:
        raise ValueError("make_compute_metrics needs at least one metric, such as 'accuracy'.")
    if average not in AVERAGES:
        allowed = ", ".join(map(repr, AVERAGES))
        raise ValueError(f"average={average!r} is not known; choose one of {allowed}.")
    if tokenizer is not None and not hasattr(tokenizer, "batch_decode"):
        raise ValueError(f"tokenizer={tokenizer!r} has no batch_decode; pass a tokenizer.")
    modules: list[Any] = []
    for metric in metrics:
        loaded = load_metric(metric, network_seconds) if isinstance(metric, str) else metric
        modules.extend(_single_metrics(loaded))
    return ComputeMetrics(modules, average, ignore_index, next_token, tokenizer)


def _single_metrics(metric: Any) -> Iterator[Any]:
    """Yields the parts of a combined metric, because each may need another kind of predictions."""
    if isinstance(metric, evaluate.CombinedEvaluations):
        for part in metric.evaluation_modules:
            yield from _single_metrics(part)
    elif isinstance(metric, evaluate.EvaluationModule):
        yield metric
    else:
        raise ValueError(
            f"{metric!r} is not a metric; pass a name such as 'accuracy', a path, or an object "
            "from evaluate.load or evaluate.combine."
        )


class ComputeMetrics:
    """Computes metrics of predictions; made by `make_compute_metrics`."""

    def __init__(
        self,
        metrics: list[Any],
        average: str | None,
        ignore_index: int,
        next_token: bool | None,
        tokenizer: Any,
    ) -> None:
        self._metrics = [(metric, _kind(metric)) for metric in metrics]
        for metric, kind in self._metrics:
            if kind == "texts" and tokenizer is None:
                raise ValueError(
                    f"The metric {metric.name!r} compares texts; pass tokenizer=…, so that tokens "
                    "can be decoded."
                )
        self._tokenizer = tokenizer
        self._average = average
        self._ignore_index = ignore_index
        self._next_token = next_token
        # With `batch_eval_metrics`: the pairs of the batches so far, per kind.
        self._batches: dict[Kind, list[Pairs]] = {}

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, Any]:
        """Collects predictions, and computes the metrics of all that were collected.

        Args:
            prediction: Predictions and labels: arrays, or with `batch_eval_metrics` tensors.
            compute_result: Whether to compute the metrics. `Trainer` passes `False` for every batch
                but the last with `batch_eval_metrics`.

        Returns:
            The metrics by name; an empty dictionary if `compute_result` is `False`.

        Raises:
            ValueError: The predictions do not fit the labels or a metric.
        """
        try:
            self._collect(prediction)
            if not compute_result:
                return {}
            return self._results()
        finally:
            if compute_result:
                self._batches = {}

    def _collect(self, prediction: EvalPrediction) -> None:
        scores = as_array(first_output(prediction.predictions))
        labels = labels_array(prediction.label_ids)
        for kind in {kind for _, kind in self._metrics}:
            self._batches.setdefault(kind, []).append(self._pairs(kind, scores, labels))

    def _results(self) -> dict[str, Any]:
        collected = {kind: joined(batches) for kind, batches in self._batches.items()}
        results: dict[str, Any] = {}
        for metric, kind in self._metrics:
            for key, value in self._scored(metric, kind, collected[kind]).items():
                name = key if key not in results else f"{metric.name}_{key}"
                # Not an array: the next checkpoint of a stock `Trainer` could not be saved.
                plain = value.tolist() if isinstance(value, np.ndarray) else value
                results[name] = float(plain) if np.ndim(plain) == 0 else plain
        return results

    def _pairs(self, kind: Kind, scores: NDArray, labels: NDArray) -> Pairs:
        if kind == "values":
            return value_pairs(scores, labels)
        if kind == "texts":
            shift = bool(self._next_token)
            return text_pairs(scores, labels, self._tokenizer, shift, self._ignore_index)
        if kind == "classes":
            pairs = class_pairs(scores, labels, shift=bool(self._next_token))
        else:
            pairs = loss_pairs(scores, labels, self._next_token is not False, self._ignore_index)
        kept = pairs.references != self._ignore_index
        return Pairs(pairs.predictions[kept], pairs.references[kept], pairs.class_count)

    def _scored(self, metric: Any, kind: Kind, pairs: Pairs) -> dict[str, Any]:
        if pairs.references.size == 0:
            raise ValueError(
                f"{metric.name} cannot be computed: there is no label, or all labels are "
                f"{self._ignore_index}."
            )
        arguments = self._arguments(metric, pairs) if kind == "classes" else {}
        if isinstance(metric, BundledMetric):
            return dict(metric.score(pairs.predictions, pairs.references, **arguments))
        _check_fits(metric, pairs)
        result: dict[str, Any] = metric.compute(
            predictions=pairs.predictions, references=pairs.references, **arguments
        )
        return result

    def _arguments(self, metric: Any, pairs: Pairs) -> dict[str, Any]:
        """Returns the average over classes, and the classes if there is none."""
        computes = metric.score if isinstance(metric, BundledMetric) else metric._compute
        known = inspect.signature(computes).parameters
        if "average" not in known:
            return {}
        if self._average is not None or "labels" not in known:
            return {"average": self._average_over(pairs)}
        count = pairs.class_count
        if count is None:
            count = int(max(pairs.predictions.max(), pairs.references.max())) + 1
        return {"average": None, "labels": list(range(count))}

    def _average_over(self, pairs: Pairs) -> str | None:
        if self._average != "auto":
            return self._average
        count = pairs.class_count
        if count is None:
            largest = max(pairs.predictions.max(), pairs.references.max())
            smallest = min(pairs.predictions.min(), pairs.references.min())
            count = 2 if smallest >= 0 and largest <= 1 else 3
        return "binary" if count == 2 else "macro"


# ---- What a metric declares ----


def _formats(metric: Any) -> list[Any]:
    return metric.features if isinstance(metric.features, list) else [metric.features]


def _kind(metric: Any) -> Kind:
    """Returns what a metric has to be given, from the features that it declares."""
    if isinstance(metric, Perplexity):
        return "token losses"
    for features in _formats(metric):
        if set(features) != {"predictions", "references"}:
            continue
        dtype = getattr(features["predictions"], "dtype", "")
        if dtype.startswith(("int", "uint", "bool")):
            return "classes"
        if dtype.startswith("float"):
            return "values"
        if dtype == "string" == getattr(features["references"], "dtype", ""):
            return "texts"
    raise ValueError(
        f"The metric {metric.name!r} takes {metric.features}, which logits and labels alone do not "
        "give; write a compute_metrics function that prepares its inputs."
    )


def _check_fits(metric: Any, pairs: Pairs) -> None:
    """Refuses values that would change when `evaluate` casts them to the declared integers."""
    for features in _formats(metric):
        for column, values in (
            ("predictions", pairs.predictions),
            ("references", pairs.references),
        ):
            declared = getattr(features.get(column), "dtype", "")
            if not declared.startswith(("int", "uint")):
                continue
            limits = np.iinfo(declared)
            if values.min() < limits.min or values.max() > limits.max:
                raise ValueError(
                    f"{metric.name} declares its {column} as {declared}, but they range from "
                    f"{values.min()} to {values.max()}."
                )
