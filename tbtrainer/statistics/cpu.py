"""One pass over tensors in main memory, in chunks that stay in the cache."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.statistics import small
from tbtrainer.statistics.buckets import (
    KEY_BITS,
    KEY_COUNT,
    NEGATIVE_ZERO_KEY,
    NONFINITE_KEYS,
    POSITIVE_ZERO_KEY,
    ZERO_BUCKET,
    buckets_of_keys,
)
from tbtrainer.statistics.small import SMALL_MAX_ELEMENTS

if TYPE_CHECKING:
    from tbtrainer.statistics.measure import TensorStatistics

# Elements. With its buffers a chunk stays in the caches of a core, and is large enough for the
# threads, which share Python's lock between two calls, to be seldom in each other's way.
CHUNK = 262_144

_FLOAT32_MAX = torch.finfo(torch.float32).max
_buffers = threading.local()


def measure_into(
    found: "TensorStatistics", tensors: Sequence[Tensor], divisor: Tensor | None
) -> None:
    """Adds the statistics of CPU tensors to the rows of `found`, which begin empty.

    Args:
        found: One row per tensor, on the CPU.
        tensors: Not empty, of any strides.
        divisor: What every element is divided by first, a scalar tensor.
    """
    scale = None if divisor is None else divisor.item()
    little = [row for row, tensor in enumerate(tensors) if tensor.numel() <= SMALL_MAX_ELEMENTS]
    small.measure_into(found, little, [tensors[row] for row in little], scale)
    large = {row: t for row, t in enumerate(tensors) if t.numel() > SMALL_MAX_ELEMENTS}
    if large:
        _measure_large(found, large, scale)


def _measure_large(
    found: "TensorStatistics", tensors: dict[int, Tensor], scale: float | None
) -> None:
    # Threads take chunks from one queue, so a tensor much larger than the others is shared.
    chunks = _chunks(tensors)
    lock = threading.Lock()
    totals = {row: _Totals() for row in tensors}
    elements = sum(tensor.numel() for tensor in tensors.values())
    threads = max(1, min(torch.get_num_threads(), elements // CHUNK))

    def work() -> None:
        mine: dict[int, _Totals] = {}
        while (item := _next(chunks, lock)) is not None:
            row, chunk = item
            mine.setdefault(row, _Totals()).add(chunk, scale)
        with lock:
            for row, part in mine.items():
                totals[row].merge(part)

    if threads > 1:
        with ThreadPoolExecutor(threads - 1, thread_name_prefix="tbtrainer-measure") as pool:
            others = [pool.submit(work) for _ in range(threads - 1)]
            work()
            for other in others:
                other.result()
    else:
        work()
    for row, total in totals.items():
        total.write(found, row)


def _chunks(tensors: dict[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Pieces of at most `CHUNK` elements with their row: views where the memory is in one piece."""
    for row, tensor in tensors.items():
        for flat in _flat_pieces(tensor.detach()):
            for chunk in flat.split(CHUNK):
                yield row, chunk


def _flat_pieces(tensor: Tensor) -> Iterator[Tensor]:
    """One-dimensional pieces that together hold every element once, copied only piece by piece."""
    if tensor.is_contiguous():
        yield tensor.view(-1)
        return
    # A transposed or channels-last tensor is one piece of memory, read in the order of its strides.
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    ordered = tensor.permute(order)
    if ordered.is_contiguous():
        yield ordered.view(-1)
    elif tensor.numel() <= CHUNK or tensor.dim() == 1:
        for piece in tensor.split(CHUNK) if tensor.dim() == 1 else (tensor,):
            yield piece.reshape(-1)
    else:
        for part in ordered.unbind(0):
            yield from _flat_pieces(part)


def _next(chunks: Iterator[tuple[int, Tensor]], lock: threading.Lock) -> tuple[int, Tensor] | None:
    with lock:
        return next(chunks, None)


@dataclass
class _Totals:
    """Statistics of one tensor while its chunks come in."""

    count: int = 0
    zeros: int = 0
    sum: float = 0.0
    sum_of_squares: float = 0.0
    minimum: float = float("inf")
    maximum: float = float("-inf")
    keys: NDArray[np.int64] = field(default_factory=lambda: np.zeros(KEY_COUNT, np.int64))

    def add(self, chunk: Tensor, scale: float | None) -> None:
        """Reads a chunk. This is the pass over memory."""
        self.count += chunk.numel()
        exact = _exact(chunk, scale)
        single = _as_single(exact)
        keys = torch.bincount(_keys_of(single), minlength=KEY_COUNT).numpy()
        self.keys += keys
        # Zeros, and what is too small for a key of its own, share the zero keys. Mostly none is.
        if keys[POSITIVE_ZERO_KEY] or keys[NEGATIVE_ZERO_KEY]:
            self._count_zeros(exact)
        if any(keys[where].any() for where in NONFINITE_KEYS):
            exact = exact[torch.isfinite(exact)]
            if exact.numel() == 0:
                return
        low, high = torch.aminmax(exact)
        self.minimum = min(self.minimum, low.item())
        self.maximum = max(self.maximum, high.item())
        wide = _as_double(exact)
        self.sum += wide.sum().item()
        self.sum_of_squares += torch.dot(wide, wide).item()

    def _count_zeros(self, exact: Tensor) -> None:
        """Takes the zeros, of either sign, out of the zero keys."""
        zeros = exact == 0
        count = int(zeros.sum())
        negative = int((zeros & torch.signbit(exact)).sum()) if exact.is_floating_point() else 0
        self.zeros += count
        self.keys[NEGATIVE_ZERO_KEY] -= negative
        self.keys[POSITIVE_ZERO_KEY] -= count - negative

    def merge(self, other: "_Totals") -> None:
        """Adds what another thread found in other chunks of the tensor."""
        self.count += other.count
        self.zeros += other.zeros
        self.sum += other.sum
        self.sum_of_squares += other.sum_of_squares
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.keys += other.keys

    def write(self, found: "TensorStatistics", row: int) -> None:
        """Puts the totals into a row."""
        found.count[row] = self.count
        found.zeros[row] = self.zeros
        found.nonfinite[row] = int(sum(self.keys[where].sum() for where in NONFINITE_KEYS))
        found.sum[row] = self.sum
        found.sum_of_squares[row] = self.sum_of_squares
        found.minimum[row] = self.minimum
        found.maximum[row] = self.maximum
        found.buckets[row] = torch.from_numpy(buckets_of_keys(self.keys))
        found.buckets[row, ZERO_BUCKET] = self.zeros


def _exact(chunk: Tensor, scale: float | None) -> Tensor:
    """The chunk in a dtype that holds its values exactly and that torch computes with."""
    if chunk.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        # float8 fits float32; integers up to 2**53 fit float64, and booleans anything.
        chunk = chunk.to(torch.float32 if chunk.is_floating_point() else torch.float64)
    return chunk if scale is None else chunk.to(torch.float64) / scale


def _as_single(exact: Tensor) -> Tensor:
    """What the keys are read from: float32 or bfloat16."""
    if exact.dtype in (torch.float32, torch.bfloat16):
        return exact
    if exact.dtype == torch.float16:
        return exact.to(torch.float32)
    # Finite values beyond float32 stay finite; magnitudes below it keep their sign.
    single = exact.clamp(-_FLOAT32_MAX, _FLOAT32_MAX).to(torch.float32)
    return single.where(torch.isfinite(exact), exact.to(torch.float32))


def _keys_of(single: Tensor) -> Tensor:
    """The leading bits of every element. int32, in a buffer of this thread."""
    keys = _buffer("keys", single.numel(), torch.int32)
    if single.dtype == torch.bfloat16:
        keys.copy_(single.view(torch.int16))
        keys.bitwise_right_shift_(16 - KEY_BITS)
    else:
        torch.bitwise_right_shift(single.view(torch.int32), 32 - KEY_BITS, out=keys)
    return keys.bitwise_and_(KEY_COUNT - 1)


def _as_double(exact: Tensor) -> Tensor:
    if exact.dtype == torch.float64:
        return exact
    return _buffer("double", exact.numel(), torch.float64).copy_(exact)


def _buffer(name: str, size: int, dtype: torch.dtype) -> Tensor:
    """The first `size` elements of a buffer that this thread uses again and again."""
    buffer = getattr(_buffers, name, None)
    if buffer is None or buffer.numel() < size:
        buffer = torch.empty(max(size, CHUNK), dtype=dtype)
        setattr(_buffers, name, buffer)
    return buffer[:size]
