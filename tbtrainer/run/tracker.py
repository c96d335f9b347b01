"""What a mirror needs to know of another tracker, such as Weights & Biases."""

import math
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tbtrainer.records import Histogram

# Values of one step, by tag.
Row: TypeAlias = Mapping[str, float | Histogram]

# The axis of the charts: the name that the callbacks of transformers use, so that runs with and
# without them share a chart.
STEP_KEY = "train/global_step"


class Tracker(Protocol):
    """A tracker whose current run takes the values. tbtrainer never begins a run of a tracker.

    Attributes:
        name: As in `mirror_to`, and the name of the package.
        how_to_begin: The call that begins a run, for error messages.
    """

    name: str
    how_to_begin: str

    def current_run(self) -> Any | None:
        """Returns the run that was initialised in this process and has not ended, or `None`."""

    def follows_event_files(self) -> bool:
        """Returns whether the tracker reads the event files itself, so that it needs no mirror."""

    def send(self, run: Any, step: int, row: Row) -> None:
        """Adds values to a run. May block or raise; called in a thread of the mirror.

        Args:
            run: What `current_run` returned.
            step: Optimizer steps taken.
            row: The values, by tag.
        """


def numpy_histogram(
    histogram: Histogram, most_buckets: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns counts and edges, as `numpy.histogram` does.

    If all elements are equal, the one bucket reaches 0.5 to both sides, as in NumPy.

    Args:
        histogram: Of one tensor.
        most_buckets: The most buckets that the tracker takes; neighbours are added up. `None` for
            no limit.

    Returns:
        Elements per bucket, float64, shape (buckets,); and the edges, float64, shape
        (buckets + 1,).

    Example:
        >>> one = Histogram(0.0, 2.0, 5, 4.0, 6.0, np.array([1.0, 2.0]), np.array([3.0, 2.0]))
        >>> [part.tolist() for part in numpy_histogram(one)]
        [[3.0, 2.0], [0.0, 1.0, 2.0]]
    """
    counts = np.asarray(histogram.bucket_counts, dtype=np.float64)
    edges = np.append(histogram.minimum, histogram.bucket_limits).astype(np.float64)
    if most_buckets is not None and len(counts) > most_buckets:
        begins = np.arange(0, len(counts), math.ceil(len(counts) / most_buckets))
        counts, edges = np.add.reduceat(counts, begins), edges[np.append(begins, len(counts))]
    if edges[0] == edges[-1]:
        counts, edges = np.array([counts.sum()]), edges[0] + np.array([-0.5, 0.5])
    return counts, edges
