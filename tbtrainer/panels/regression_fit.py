"""R² and RMSE of a regression, over all examples of an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import Kept, PanelBatch
from tbtrainer.panels.totals import wide


def regression_kept(batch: PanelBatch) -> Kept:
    """Returns what panels keep of a batch of an evaluation for which `is_regression` is true.

    Returns:
        Of each example "prediction" and "label", float32. Sums over the examples of which both are
        finite, which `RegressionFit` knows.
    """
    assert batch.logits is not None and is_tensor(batch.labels)
    prediction, label = batch.logits.reshape(-1), batch.labels.reshape(-1)
    counted = prediction.isfinite() & label.isfinite()
    floating = label if label.is_floating_point() else label.to(torch.float32)
    # In the dtype of sums, because float32 does not hold the squares of large labels.
    true = torch.where(counted, wide(floating), 0.0)
    error = torch.where(counted, wide(prediction), 0.0) - true
    return Kept(
        examples={"prediction": prediction.to(torch.float32), "label": label.to(torch.float32)},
        totals={
            "examples": counted.sum(),
            "true": true.sum(),
            "true_squared": true.square().sum(),
            "error_squared": error.square().sum(),
            "between": (counted & (label != 0) & (label != 1)).sum(),
        },
    )


@dataclass(frozen=True)
class RegressionFit:
    """R² and RMSE of a regression.

    Attributes:
        examples: Number of examples of which prediction and label are finite.
        rmse: Root of the mean squared error, in the unit of the labels.
        r_squared: 1 - squared error / squared deviation of the labels from their mean: 1 is
            perfect, 0 no better than that mean. NaN where all labels are equal.
        is_binary: Whether all labels are 0 or 1, as those of a classifier with one logit are.
    """

    examples: int
    rmse: float
    r_squared: float
    is_binary: bool

    @classmethod
    def of(cls, totals: Mapping[str, NDArray[Any]]) -> "RegressionFit | None":
        """Returns it from the totals of `regression_kept`; `None` without a finite example."""
        examples = int(totals["examples"])
        if examples == 0:
            return None
        true, squared = float(totals["true"]), float(totals["true_squared"])
        error = float(totals["error_squared"])
        deviation = squared - true**2 / examples
        # Of equal labels only the rounding of the sums remains.
        is_spread = deviation > 1e-12 * squared
        return cls(
            examples=examples,
            rmse=(error / examples) ** 0.5,
            r_squared=1 - error / deviation if is_spread else float("nan"),
            is_binary=int(totals["between"]) == 0,
        )


def finite_points(examples: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns predictions and labels of the kept examples of which both are finite, float64."""
    prediction, label = examples["prediction"], examples["label"]
    both = np.isfinite(prediction) & np.isfinite(label)
    return prediction[both].astype(np.float64), label[both].astype(np.float64)
