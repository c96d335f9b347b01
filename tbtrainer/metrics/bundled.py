"""Metrics that need no network: subclasses of `evaluate.Metric` that need only NumPy.

Their values are those of scikit-learn, and their keys those of the hub's metrics of these names. If
a ratio is undefined because its denominator is 0, they return 0. A class that occurs neither in
predictions nor in references counts in no average.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

CLASSES = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
VALUES = {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
TOKEN_LOSSES = {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}


class BundledMetric(evaluate.Metric):
    """An `evaluate.Metric` that is kept in memory and writes no file to the cache directory.

    Attributes:
        description: One sentence that says what the metric is.
        columns: Features of `predictions` and `references`.
        score: Function of `predictions`, `references` and the metric's own arguments that returns
            the metric. The first two are arrays of one shape. They are not copied through Arrow.
    """

    description = ""
    columns: dict[str, datasets.Value] = {}
    score: Callable[..., dict[str, Any]]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            inputs_description=self.__class__.__doc__ or "",
            features=datasets.Features(self.columns),
        )

    def _build_data_dir(self) -> str:
        # evaluate 0.4 creates this directory even for a metric that is kept in memory. It is not
        # needed, and creating it fails if the home directory is read-only.
        return os.path.join(self._data_dir_root, self.name)

    def _compute(self, predictions: Any, references: Any, **kwargs: Any) -> dict[str, Any]:
        return self.score(np.asarray(predictions), np.asarray(references), **kwargs)


class Accuracy(BundledMetric):
    """Share of the examples whose class was predicted.

    Example:
        >>> Accuracy().compute(predictions=[0, 1, 1], references=[0, 1, 0])["accuracy"]
        0.6666666666666666
    """

    description = "Share of examples whose predicted class is the reference."
    columns = CLASSES

    def score(self, predictions: NDArray, references: NDArray) -> dict[str, float]:
        """Returns `{"accuracy": …}`."""
        return {"accuracy": float(np.mean(predictions == references))}


class _PerClassMetric(BundledMetric, ABC):
    """Base of precision, recall and F1: a ratio per class, then an average over classes."""

    columns = CLASSES
    key = ""

    @staticmethod
    @abstractmethod
    def ratio(hits: NDArray, predicted: NDArray, actual: NDArray) -> NDArray:
        """Returns the metric from counts of hits, predictions and references, per class."""

    def score(
        self,
        predictions: NDArray,
        references: NDArray,
        average: str | None = "binary",
        pos_label: int = 1,
        labels: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Returns the metric under its name.

        Args:
            predictions: Predicted classes, integer, shape (examples,).
            references: True classes, integer, shape (examples,).
            average: `binary` (the ratio of `pos_label`), `micro` (the ratio of all classes
                together), `macro` (mean over classes), `weighted` (mean over classes, weighted by
                their frequency in `references`), `None` (a list with the ratio of each class).
            pos_label: The positive class of `binary`.
            labels: The classes in the list of `average=None`; `None` means those that occur. A
                class that does not occur has NaN.

        Raises:
            ValueError: `average` is none of these; or it is `binary`, and there are more than two
                classes, or two classes that are not `pos_label`.
        """
        classes, codes = np.unique(np.concatenate([predictions, references]), return_inverse=True)
        predicted_codes, actual_codes = np.split(codes.reshape(-1), 2)
        count = len(classes)
        predicted = np.bincount(predicted_codes, minlength=count)
        actual = np.bincount(actual_codes, minlength=count)
        hits = np.bincount(actual_codes[predicted_codes == actual_codes], minlength=count)
        if average == "binary":
            _check_binary(classes, pos_label)
            chosen = classes == pos_label
            value = self.ratio(hits[chosen].sum(), predicted[chosen].sum(), actual[chosen].sum())
        elif average == "micro":
            value = self.ratio(hits.sum(), predicted.sum(), actual.sum())
        elif average == "macro":
            value = np.mean(self.ratio(hits, predicted, actual))
        elif average == "weighted":
            value = np.average(self.ratio(hits, predicted, actual), weights=actual)
        elif average is None:
            ratios = self.ratio(hits, predicted, actual).tolist()
            by_class = dict(zip(classes.tolist(), ratios, strict=True))
            listed = by_class if labels is None else labels
            return {self.key: [by_class.get(label, math.nan) for label in listed]}
        else:
            raise ValueError(
                f"average={average!r} is not known; use 'binary', 'micro', 'macro', 'weighted' or "
                "None."
            )
        return {self.key: float(value)}


def _check_binary(classes: NDArray, pos_label: int) -> None:
    """Raises a `ValueError` if these classes have no ratio of the class `pos_label`."""
    if len(classes) > 2:
        raise ValueError(
            f"average='binary' needs two classes, but there are {len(classes)}; "
            "use 'micro', 'macro' or 'weighted'."
        )
    if len(classes) == 2 and pos_label not in classes:
        raise ValueError(
            f"pos_label={pos_label} is neither of the two classes, {classes[0]} and {classes[1]}."
        )


def _divide(numerator: NDArray, denominator: NDArray) -> NDArray:
    """Divides. The quotient is 0 where the denominator is."""
    quotient = np.zeros(np.shape(denominator))
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


class Precision(_PerClassMetric):
    """Share of the examples predicted to be in a class that are in it.

    Example:
        >>> Precision().compute(predictions=[1, 1, 0, 0], references=[1, 0, 0, 0])["precision"]
        0.5
    """

    description = "True positives among predicted positives."
    key = "precision"

    @staticmethod
    def ratio(hits: NDArray, predicted: NDArray, actual: NDArray) -> NDArray:
        """Returns true positives over predicted positives."""
        return _divide(hits, predicted)


class Recall(_PerClassMetric):
    """Share of the examples in a class that were predicted to be in it.

    Example:
        >>> Recall().compute(predictions=[1, 0, 0, 0], references=[1, 1, 0, 0])["recall"]
        0.5
    """

    description = "True positives among actual positives."
    key = "recall"

    @staticmethod
    def ratio(hits: NDArray, predicted: NDArray, actual: NDArray) -> NDArray:
        """Returns true positives over actual positives."""
        return _divide(hits, actual)


class F1(_PerClassMetric):
    """Harmonic mean of precision and recall.

    Example:
        >>> F1().compute(predictions=[1, 1, 0, 0], references=[1, 0, 0, 0])["f1"]
        0.6666666666666666
    """

    description = "Harmonic mean of precision and recall."
    key = "f1"

    @staticmethod
    def ratio(hits: NDArray, predicted: NDArray, actual: NDArray) -> NDArray:
        """Returns twice the true positives over the sum of predicted and actual positives."""
        return _divide(2 * hits, predicted + actual)


class MeanSquaredError(BundledMetric):
    """Mean of the squared differences.

    Example:
        >>> MeanSquaredError().compute(predictions=[1.0, 3.0], references=[1.0, 1.0])["mse"]
        2.0
    """

    description = "Mean squared error."
    columns = VALUES

    def score(self, predictions: NDArray, references: NDArray) -> dict[str, float]:
        """Returns `{"mse": …}`, computed in float64."""
        return {"mse": float(np.mean(np.square(_differences(predictions, references))))}


class MeanAbsoluteError(BundledMetric):
    """Mean of the absolute differences.

    Example:
        >>> MeanAbsoluteError().compute(predictions=[1.0, 3.0], references=[1.0, 1.0])["mae"]
        1.0
    """

    description = "Mean absolute error."
    columns = VALUES

    def score(self, predictions: NDArray, references: NDArray) -> dict[str, float]:
        """Returns `{"mae": …}`, computed in float64."""
        return {"mae": float(np.mean(np.abs(_differences(predictions, references))))}


def _differences(predictions: NDArray, references: NDArray) -> NDArray:
    return predictions.astype(np.float64) - references.astype(np.float64)


class Perplexity(BundledMetric):
    """Exponential of the mean loss per token.

    `predictions` are the losses of the tokens: negative log-likelihoods with the natural logarithm.
    `references` are the tokens. The hub's metric of this name is different: it runs a model over
    texts.

    Example:
        >>> Perplexity().compute(predictions=[0.0, 0.0], references=[5, 7])["perplexity"]
        1.0
    """

    description = "Exponential of the mean negative log-likelihood of the tokens."
    columns = TOKEN_LOSSES

    def score(self, predictions: NDArray, references: NDArray) -> dict[str, float]:
        """Returns `{"perplexity": …}`; infinite if float64 overflows."""
        with np.errstate(over="ignore"):
            return {"perplexity": float(np.exp(np.mean(predictions.astype(np.float64))))}


BUNDLED: dict[str, type[BundledMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "mae": MeanAbsoluteError,
    "mse": MeanSquaredError,
    "perplexity": Perplexity,
    "precision": Precision,
    "recall": Recall,
}
