"""One pass over tensors in main memory, in chunks that stay in the cache."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.statistics import small
from tbtrainer.statistics.buckets import (
    KEY_BITS,
    KEY_COUNT,
    NEGATIVE_ZERO_KEY,
    POSITIVE_ZERO_KEY,
    ZERO_BUCKET,
    buckets_of_keys,
)
from tbtrainer.statistics.pieces import pieces
from tbtrainer.statistics.small import SMALL_MAX_ELEMENTS

if TYPE_CHECKING:
    from tbtrainer.statistics.measure import TensorStatistics

# Elements that torch works on in the calling thread alone: it shares out 32,768 and more
# (`at::internal::GRAIN_SIZE`, torch 2.4 to 2.13), and each of the threads here would do that.
_TORCH_SERIAL = 32_704
# Elements. With its buffers a chunk stays in the caches of a core. NumPy works on one of any size
# in the calling thread, and seldom enough for the calls not to count.
CHUNK = 4 * _TORCH_SERIAL
# A chunk is some thirty calls, each of which holds Python's lock for a microsecond or two: with
# more threads they would wait for one another.
_MOST_THREADS = 8

_FLOAT32_MAX = float(np.finfo(np.float32).max)

Floats = NDArray[np.floating[Any]]


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


def linear_into(
    counts: Tensor,
    tensors: Sequence[Tensor],
    minimum: Tensor,
    maximum: Tensor,
    divisor: Tensor | None,
) -> None:
    """Adds to `counts` the elements in equal buckets between each tensor's given ends.

    Args:
        counts: int64, shape (tensors, LINEAR_BUCKET_COUNT), on the CPU.
        tensors: Not empty CPU tensors.
        minimum: float64, shape (tensors,), on the CPU.
        maximum: float64, shape (tensors,), on the CPU.
        divisor: What every element is divided by first, a scalar tensor.
    """
    scale = None if divisor is None else divisor.item()
    small.linear_into(counts, tensors, minimum.numpy(), maximum.numpy(), scale)


def _measure_large(
    found: "TensorStatistics", tensors: dict[int, Tensor], scale: float | None
) -> None:
    # Threads take chunks from one queue, so a tensor much larger than the others is shared.
    chunks = _Queue(tensors)
    lock = threading.Lock()
    sums: list[tuple[int, int, float, float]] = []

    # Infinities and what is beyond float64 are counted, and nothing to warn of.
    @torch.no_grad()
    @np.errstate(all="ignore")
    def work() -> None:
        reader = _ChunkReader(scale)
        row: int | None = None
        for index, next_row, chunk in chunks:
            if row is not None and row != next_row:
                reader.flush(found, row, lock)
            row = next_row
            sums.append((index, row, *reader.read(chunk)))
        if row is not None:
            reader.flush(found, row, lock)

    elements = sum(tensor.numel() for tensor in tensors.values())
    threads = max(1, min(torch.get_num_threads(), _MOST_THREADS, elements // (4 * CHUNK)))
    _in_threads(work, threads)
    # In the order of the elements, so that the last bits do not depend on the threads.
    total, squares = found.sum.numpy(), found.sum_of_squares.numpy()
    for _, row, chunk_total, chunk_squares in sorted(sums):
        total[row] += chunk_total
        squares[row] += chunk_squares


def _in_threads(work: Callable[[], None], threads: int) -> None:
    """Runs `work` in the calling thread and in `threads - 1` others."""
    if threads == 1:
        work()
        return
    with ThreadPoolExecutor(threads - 1, thread_name_prefix="tbtrainer-measure") as pool:
        others = [pool.submit(work) for _ in range(threads - 1)]
        work()
        for other in others:
            other.result()


class _Queue:
    """Chunks of tensors for several threads: each iterates, and no chunk comes twice."""

    def __init__(self, tensors: dict[int, Tensor]) -> None:
        self._lock = threading.Lock()
        self._chunks = self._cut(tensors)

    def __iter__(self) -> Iterator[tuple[int, int, Tensor]]:
        while True:
            with self._lock:
                item = next(self._chunks, None)
            if item is None:
                return
            yield item

    @staticmethod
    def _cut(tensors: dict[int, Tensor]) -> Iterator[tuple[int, int, Tensor]]:
        index = 0
        for row, tensor in tensors.items():
            for piece in pieces(tensor.detach(), CHUNK, _TORCH_SERIAL):
                yield index, row, piece
                index += 1


class _ChunkReader:
    """Reads chunks of one tensor through buffers that one thread uses again and again."""

    def __init__(self, scale: float | None) -> None:
        self._scale = scale
        self._most_counted = CHUNK if torch.get_num_threads() == 1 else _TORCH_SERIAL
        self._single = np.empty(CHUNK, np.float32)
        self._double = np.empty(CHUNK, np.float64)
        self._keys = np.empty(CHUNK, np.uint32)
        self._short_keys = np.empty(CHUNK, np.uint16)
        self._is_zero = np.empty(CHUNK, np.bool_)
        self._key_counts = np.zeros(KEY_COUNT, np.int64)
        self._start()

    def _start(self) -> None:
        self._count, self._zeros, self._nonfinite = 0, 0, 0
        self._minimum, self._maximum = math.inf, -math.inf
        self._key_counts.fill(0)

    def read(self, chunk: Tensor) -> tuple[float, float]:
        """Counts the elements of a chunk. This is the pass over memory.

        Returns:
            The sum of its finite elements, and of their squares.
        """
        chunk = chunk.reshape(-1).resolve_neg()
        self._count += chunk.numel()
        exact = self._exact(chunk)
        wide = self._widened(exact)
        total = float(wide.sum())
        all_finite = math.isfinite(total)
        # One infinity or NaN is enough to show in the sum, and float32 alone cannot overflow it.
        if not all_finite:
            finite = exact[np.isfinite(exact)]
            self._nonfinite += exact.size - finite.size
            if finite.size == 0:
                return 0.0, 0.0
            exact, wide = finite, self._widened(finite)
            total = float(wide.sum())
        low, high = float(exact.min()), float(exact.max())
        self._minimum, self._maximum = min(self._minimum, low), max(self._maximum, high)
        if chunk.dtype == torch.bfloat16 and self._scale is None and all_finite:
            keys = self._keys_of_bfloat16(chunk)
        else:
            keys = self._keys_of_float32(self._narrowed(exact, max(-low, high)))
        zero_keys = self._key_counts[POSITIVE_ZERO_KEY] + self._key_counts[NEGATIVE_ZERO_KEY]
        for part in keys.split(self._most_counted):
            self._key_counts += torch.bincount(part, minlength=KEY_COUNT).numpy()
        zero_keys -= self._key_counts[POSITIVE_ZERO_KEY] + self._key_counts[NEGATIVE_ZERO_KEY]
        # Zeros, and what is too small for a key of its own, share the zero keys.
        if zero_keys:
            self._take_zeros_out(exact)
        squares = np.multiply(wide, wide, out=self._double[: wide.size])
        return total, float(squares.sum())

    def flush(self, found: "TensorStatistics", row: int, lock: threading.Lock) -> None:
        """Adds what was read since the last flush to a row."""
        buckets = buckets_of_keys(self._key_counts)
        buckets[ZERO_BUCKET] = self._zeros
        with lock:
            for whole, part in (
                (found.count, self._count),
                (found.zeros, self._zeros),
                (found.nonfinite, self._nonfinite),
                (found.buckets, buckets),
            ):
                whole.numpy()[row] += part
            minimum, maximum = found.minimum.numpy(), found.maximum.numpy()
            minimum[row] = min(minimum[row], self._minimum)
            maximum[row] = max(maximum[row], self._maximum)
        self._start()

    def _exact(self, chunk: Tensor) -> Floats:
        """The elements as they are, in float32 or float64."""
        if self._scale is not None:
            wide = _converted(chunk, self._double)
            return np.divide(wide, self._scale, out=wide)
        if chunk.dtype in (torch.float32, torch.float64):
            exact: Floats = chunk.numpy()
            return exact
        # Narrower floats fit float32; integers up to 2**53 fit float64, and booleans anything.
        # What gives its keys from its own bits needs no float32.
        to_single = chunk.is_floating_point() and chunk.dtype != torch.bfloat16
        return _converted(chunk, self._single if to_single else self._double)

    def _widened(self, exact: Floats) -> Floats:
        if exact.dtype == np.float64:
            return exact
        wide = self._double[: exact.size]
        np.copyto(wide, exact)
        return wide

    def _narrowed(self, exact: Floats, magnitude: float) -> Floats:
        """The elements in float32. What lies beyond it stays finite."""
        if exact.dtype == np.float32:
            return exact
        if magnitude > _FLOAT32_MAX:
            exact = exact.clip(-_FLOAT32_MAX, _FLOAT32_MAX)
        single = self._single[: exact.size]
        np.copyto(single, exact, casting="same_kind")
        return single

    def _keys_of_float32(self, single: Floats) -> Tensor:
        keys = self._keys[: single.size]
        np.right_shift(single.view(np.uint32), np.uint32(32 - KEY_BITS), out=keys)
        return torch.from_numpy(keys.view(np.int32))

    def _keys_of_bfloat16(self, chunk: Tensor) -> Tensor:
        """bfloat16 has the same leading bits as float32."""
        keys = self._short_keys[: chunk.numel()]
        bits = chunk.view(torch.int16).numpy().view(np.uint16)
        np.right_shift(bits, np.uint16(16 - KEY_BITS), out=keys)
        return torch.from_numpy(keys.view(np.int16))

    def _take_zeros_out(self, exact: Floats) -> None:
        """Counts the zeros, of either sign, and leaves in their keys what is only close to zero."""
        is_zero = np.equal(exact, 0, out=self._is_zero[: exact.size])
        zeros = int(np.count_nonzero(is_zero))
        negative = int(np.count_nonzero(is_zero & np.signbit(exact)))
        self._zeros += zeros
        self._key_counts[NEGATIVE_ZERO_KEY] -= negative
        self._key_counts[POSITIVE_ZERO_KEY] -= zeros - negative


def _converted(chunk: Tensor, buffer: Floats) -> Floats:
    """The elements in a buffer of another dtype."""
    converted = buffer[: chunk.numel()]
    places = torch.from_numpy(converted).split(_TORCH_SERIAL)
    for place, part in zip(places, chunk.split(_TORCH_SERIAL), strict=True):
        place.copy_(part)
    return converted
