"""Records: what goes into an event file, or into a file of JSON lines beside it.

Observers return them, and the run writes them at the step of the moment at which they were
returned. They hold numbers and text, and no tensors.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tbtrainer.dashboard_records import ChartLayout, HParamsColumns, HParamsEnd, HParamsRow


@dataclass(frozen=True)
class Scalar:
    """One point of a curve.

    Attributes:
        tag: Name of the curve. The part before the first slash is its group in TensorBoard.
        value: A number; NaN and infinities are allowed.
        is_logged: Whether `Trainer.log` was given it under this name. The callbacks of other
            trackers then get it as well.
    """

    tag: str
    value: float
    is_logged: bool = field(default=False, compare=False)


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
class Image:
    """A picture at one step.

    Attributes:
        tag: Name of the card.
        pixels: uint8, shape (height, width, 3): red, green and blue.

    Raises:
        ValueError: `pixels` has another dtype or shape.
    """

    tag: str
    pixels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        shape, dtype = np.shape(self.pixels), getattr(self.pixels, "dtype", type(self.pixels))
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
            raise ValueError(
                f"pixels are {dtype} of shape {shape}; they have to be uint8 of shape "
                "(height, width, 3)."
            )


@dataclass(frozen=True)
class PrCurve:
    """Precision and recall of one class at equal steps of the threshold, from 0 to 1.

    Attributes:
        tag: Name of the curve.
        true_positives: Examples of the class whose score is at least the threshold. float64, shape
            (thresholds,), at most 127.
        false_positives: Other examples whose score is at least the threshold. As above.
        true_negatives: Other examples whose score is below it. As above.
        false_negatives: Examples of the class whose score is below it. As above.
    """

    tag: str
    true_positives: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    true_negatives: NDArray[np.float64]
    false_negatives: NDArray[np.float64]

    @classmethod
    def from_counts(cls, tag: str, positives: Any, negatives: Any) -> "PrCurve":
        """Returns the curve of examples that are counted by their score.

        Args:
            tag: Name of the curve.
            positives: Examples of the class per bin, shape (thresholds,). A score s from 0 to 1 is
                in the bin floor(s · (thresholds - 1)), as in TensorBoard.
            negatives: Other examples per bin, likewise.
        """
        at_least = [
            np.cumsum(np.asarray(counts, dtype=np.float64)[::-1])[::-1]
            for counts in (positives, negatives)
        ]
        true, false = at_least
        return cls(tag, true, false, false[0] - false, true[0] - true)

    def raw_fields(self) -> dict[str, Any]:
        """Returns the keyword arguments of `SummaryWriter.add_pr_curve_raw`.

        Without any example above a threshold the precision is undefined, and 0 as in TensorBoard.
        """
        found = self.true_positives + self.false_positives
        positives = self.true_positives + self.false_negatives
        return {
            "true_positive_counts": self.true_positives,
            "false_positive_counts": self.false_positives,
            "true_negative_counts": self.true_negatives,
            "false_negative_counts": self.false_negatives,
            "precision": self.true_positives / np.maximum(found, 1e-7),
            "recall": self.true_positives / np.maximum(positives, 1e-7),
            "num_thresholds": len(found),
        }


@dataclass(frozen=True)
class Embedding:
    """Vectors for TensorBoard's Projector, with a label each. The latest ones of a tag are kept.

    Attributes:
        tag: Name of the set of vectors. The Projector shows it with the step: `<tag>:<step>`.
        vectors: float32, shape (vectors, dimensions). An empty set is left out with a warning.
        labels: One per vector. Secrets in them are hidden before they are written.
    """

    tag: str
    vectors: NDArray[np.float32]
    labels: Sequence[str]

    def __post_init__(self) -> None:
        if np.ndim(self.vectors) != 2 or len(self.vectors) != len(self.labels):
            raise ValueError(
                f"vectors of shape {np.shape(self.vectors)} have {len(self.labels)} labels; the "
                "shape has to be (vectors, dimensions), with one label per vector."
            )


# A file of JSON lines: a plain name without a path, which no loader of TensorBoard reads.
_LINES_FILE = re.compile(r"(?!.*tfevents)[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\.jsonl")


@dataclass(frozen=True)
class JsonLine:
    """One line of a small file in the run directory, for what other programs read.

    A line is a JSON object. The run adds the keys "step" and "time" (in seconds since 1970) in
    front of those of `values`. NaN and infinities, which JSON does not have, are written as the
    strings "NaN", "Infinity" and "-Infinity". Secrets in keys and texts are hidden. A resumed
    training takes the lines after the checkpoint's step out of the file.

    The file is written whole with each line, because object stores cannot append. So it is for up
    to a hundred lines per run. Lines that would make it longer than 1 MiB are left out.

    Attributes:
        file: Name of the file: letters, digits, `_`, `-` and `.`, with the end `.jsonl`.
        values: What the line holds: numbers, texts, booleans, `None`, and lists and mappings of
            them. Of other objects only the type is written.

    Raises:
        ValueError: `file` is not such a name, or `values` has the key "step" or "time".

    Example:
        >>> JsonLine("health.jsonl", {"loss": float("nan"), "parameter": "classifier.weight"}).file
        'health.jsonl'
    """

    file: str
    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.file, str) or _LINES_FILE.fullmatch(self.file) is None:
            raise ValueError(
                f"file={self.file!r} is not the name of a file of JSON lines; use at most 70 "
                "letters, digits, '_', '-' and '.', without a path and with the end '.jsonl', such "
                "as 'health.jsonl'."
            )
        taken = [key for key in ("step", "time") if key in self.values]
        if taken:
            raise ValueError(
                f"values has the key {taken[0]!r}, which the run adds itself; choose another name."
            )


@dataclass(frozen=True)
class Deferred:
    """Records that are made later, in another thread, while the training continues.

    If more than a few are waiting, the training waits for the oldest. On ranks that do not write,
    `make` is never called.

    Attributes:
        make: Returns the records. It must not communicate with other ranks.
    """

    make: Callable[[], Iterable["Record"]]


Record: TypeAlias = (
    Scalar
    | Text
    | HistogramRecord
    | Image
    | PrCurve
    | Embedding
    | ChartLayout
    | HParamsColumns
    | HParamsRow
    | HParamsEnd
    | JsonLine
    | Deferred
)
Records: TypeAlias = Iterable[Record]
