"""Large rows whose values are close together: they get a linear pass, as small tensors do.

Values such as 1 +- 0.01 fall into three of the fixed buckets. The linear pass resolves them, but a
second pass over every large tensor would cost too much, and which tensors need it is known on the
device only. So the extremes of one snapshot are copied to the host without waiting, and decide at
the next snapshot. The first snapshot of a training has none, and shows the fixed buckets.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.statistics.buckets import BUCKET_OF_KEY, KEY_BITS, ZERO_BUCKET
from tbtrainer.statistics.rows import SnapshotRows
from tbtrainer.statistics.tensor_statistics import TensorStatistics

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# A row is narrow if its extremes are at most this many fixed buckets apart. As many buckets as a
# histogram shows by default give a bell-shaped distribution its shape.
NARROW_MAX_BUCKETS = 64
# How far the ends lie outside of the previous extremes, as a share of the distance between these.
_WIDENED = 0.5
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FLOAT64_MAX = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class NarrowRows:
    """The large rows that get a linear pass in a snapshot, and its ends.

    Elements outside of the ends are counted in the first and in the last bucket of the pass.

    Attributes:
        rows: At most `SnapshotRows.narrow_slots` rows.
        low: Lower end of each. float64, shape (rows,).
        high: Upper end of each. float64, shape (rows,).
    """

    rows: tuple[int, ...] = ()
    low: Floats = field(default_factory=lambda: np.zeros(0))
    high: Floats = field(default_factory=lambda: np.zeros(0))


class PreviousExtremes:
    """The extremes of the previous snapshot of the same tensors, reduced over all ranks.

    They are equal on every rank, and so is what follows from them. A rank that does not know them,
    because it failed to measure, adds nothing to the linear pass of the narrow rows of the next
    snapshot. The pass is then incomplete, and the fixed buckets are shown.

    Args:
        rows: The rows of the snapshots.
    """

    def __init__(self, rows: SnapshotRows) -> None:
        self._slots = rows.narrow_slots
        small = set(rows.linear_rows)
        self._large = np.array([at for at in range(len(rows.names)) if at not in small], np.int64)
        on_cuda = rows.device.type == "cuda"
        shape = (2, len(rows.names))
        self._kept = torch.empty(shape, dtype=torch.float64, device="cpu", pin_memory=on_cuda)
        self._copied = torch.cuda.Event() if on_cuda else None
        self._is_known = False

    def keep(self, statistics: TensorStatistics | None) -> None:
        """Begins to copy the extremes of a snapshot to the host, without waiting.

        Args:
            statistics: With reduced extremes; `None` if this rank could not measure.
        """
        self._is_known = False
        if statistics is None or self._slots == 0:
            return
        self._kept[0].copy_(statistics.minimum, non_blocking=True)
        self._kept[1].copy_(statistics.maximum, non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        self._is_known = True

    def narrow_rows(self) -> NarrowRows:
        """Returns the narrow rows by the previous snapshot; none if there was none.

        The copy that `keep` began was launched at the previous snapshot. Waiting for it takes no
        time, unless the device is behind by all the steps since then.
        """
        if not self._is_known:
            return NarrowRows()
        if self._copied is not None:
            self._copied.synchronize()
        low, high = self._kept.numpy()[:, self._large]
        finite = np.flatnonzero(np.isfinite(low) & (low < high))
        spanned = _bucket_of(high[finite]) - _bucket_of(low[finite])
        # The narrowest first, in case there are more of them than slots.
        order = np.argsort(spanned, kind="stable")[: self._slots]
        chosen = finite[order[spanned[order] < NARROW_MAX_BUCKETS]]
        low, high = low[chosen], high[chosen]
        # Halves are used because the difference of two float64 may overflow.
        added = (high / 2 - low / 2) * (2 * _WIDENED)
        return NarrowRows(
            tuple(self._large[chosen].tolist()),
            np.maximum(low, -_FLOAT64_MAX + added) - added,
            np.minimum(high, _FLOAT64_MAX - added) + added,
        )


def ends_of_pass(
    rows: SnapshotRows, statistics: TensorStatistics, narrow: NarrowRows
) -> tuple[Tensor, Tensor]:
    """Returns the lower and the upper end of every line of the linear pass.

    Returns:
        Two tensors, float64, shape (linear rows + narrow slots,), on `rows.device`. The ends of
        slots without a row are 0.
    """
    ends = []
    for extreme, chosen in (
        (statistics.minimum, narrow.low),
        (statistics.maximum, narrow.high),
    ):
        slots = np.zeros(rows.narrow_slots)
        slots[: len(chosen)] = chosen
        moved_slots = torch.from_numpy(slots).to(rows.device, non_blocking=True)
        ends.append(torch.cat([extreme[rows.linear_index], moved_slots]))
    return ends[0], ends[1]


def _bucket_of(values: Floats) -> Integers:
    """Returns the fixed bucket of finite values."""
    single = np.clip(values, -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32)
    keys = single.view(np.uint32) >> np.uint32(32 - KEY_BITS)
    buckets: Integers = np.where(values == 0, ZERO_BUCKET, BUCKET_OF_KEY[keys])
    return buckets
