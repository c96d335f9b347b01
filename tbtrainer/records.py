"""Records: what goes into an event file.

Observers return them, and the run writes them at the step of the moment at which they were
returned. They hold numbers and text, and no tensors.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scalar:
    """One point of a curve.

    Attributes:
        tag: Name of the curve. The part before the first slash is its group in TensorBoard.
        value: A number; NaN and infinities are allowed.
    """

    tag: str
    value: float


@dataclass(frozen=True)
class Text:
    """A card of Markdown.

    Attributes:
        tag: Name of the card. `SummaryWriter` adds `/text_summary` to it.
        text: Markdown. Secrets in it are hidden before it is written.
        once: Whether it is left out if this is already the latest text of the run under this tag,
            as after a resume.
    """

    tag: str
    text: str
    once: bool = False


@dataclass(frozen=True)
class Histogram:
    """The distribution of the elements of one tensor.

    Attributes:
        minimum: Smallest finite element, the left edge of the first bucket.
        maximum: Largest finite element, the right edge of the last bucket.
        count: Number of finite elements.
        sum: Sum of the finite elements.
        sum_of_squares: Sum of their squares.
        bucket_limits: Right edge of each bucket, in ascending order. float64, shape (buckets,).
        bucket_counts: Elements per bucket. float64, shape (buckets,).
    """

    minimum: float
    maximum: float
    count: int
    sum: float
    sum_of_squares: float
    bucket_limits: NDArray[np.float64]
    bucket_counts: NDArray[np.float64]

    def raw_fields(self) -> dict[str, Any]:
        """Returns the keyword arguments of `SummaryWriter.add_histogram_raw`."""
        return {
            "min": self.minimum,
            "max": self.maximum,
            "num": self.count,
            "sum": self.sum,
            "sum_squares": self.sum_of_squares,
            "bucket_limits": self.bucket_limits,
            "bucket_counts": self.bucket_counts,
        }


@dataclass(frozen=True)
class HistogramRecord:
    """A histogram at one step.

    Attributes:
        tag: Name of the chart.
        histogram: What the chart shows at this step.
    """

    tag: str
    histogram: Histogram


@dataclass(frozen=True)
class Deferred:
    """Records that are made later, in another thread, while the training continues.

    If more than a few are waiting, the training waits for the oldest. On ranks that do not write,
    `make` is never called.

    Attributes:
        make: Returns the records. It must not communicate with other ranks.
    """

    make: Callable[[], Iterable["Record"]]


Record: TypeAlias = Scalar | Text | HistogramRecord | Deferred
Records: TypeAlias = Iterable[Record]
