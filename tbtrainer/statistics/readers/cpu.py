"""Reads tensors in main memory, in chunks that fit the cache."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.statistics.buckets import (
    WIDE_KEY_BITS,
    WIDE_KEY_COUNT,
    WIDE_NEGATIVE_ZERO_KEY,
    ZERO_BUCKET,
    move_keys_to_buckets,
)
from tbtrainer.statistics.readers.cpu_small import SmallCpuReader
from tbtrainer.statistics.readers.pieces import pieces
from tbtrainer.statistics.readers.reader import INT64_COUNTERS
from tbtrainer.statistics.tensor_statistics import TensorStatistics

# Elements of a chunk. A chunk takes about a dozen calls that hold the GIL for 1-2 us each, so it
# should be large. Its buffers are 4 MiB, which fit the L2 or L3 cache.
CHUNK = 2**18
# Most elements that torch converts in the calling thread. For 32,768 and more it starts threads of
# its own (`at::internal::GRAIN_SIZE`, torch 2.4 to 2.13), in addition to the threads used here.
_TORCH_SERIAL = 32_704
# Most threads. More would wait for the GIL, and their buffers would not fit the cache.
_MOST_THREADS = 8
# Elements of a scalar product. For 10,000 and more OpenBLAS starts threads of its own.
_ROW = 512

_FLOAT32 = np.finfo(np.float32)
# Dtypes whose values are all values of float32.
_WITHIN_FLOAT32 = {
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
}

Floats = NDArray[np.floating[Any]]


class CpuReader:
    """Reads CPU tensors of any measurable dtype and any strides."""

    name = "NumPy"
    counter_dtypes = INT64_COUNTERS

    def __init__(self) -> None:
        self._small = SmallCpuReader()

    def supports(self, tensor: Tensor) -> bool:
        """Returns True: every measurable CPU tensor is supported."""
        return True

    def measure_into(
        self,
        out: TensorStatistics,
        rows: Sequence[int],
        tensors: Sequence[Tensor],
        loss_scale: Tensor | None,
    ) -> None:
        """Adds the statistics of tensors to rows of `out`; see `Reader`."""
        # One copy for all tensors. It waits if the loss scale is on an accelerator.
        loss_scale = None if loss_scale is None else loss_scale.to(out.count.device)
        small: list[tuple[int, Tensor]] = []
        large: list[tuple[int, Tensor]] = []
        for row, tensor in zip(rows, tensors, strict=True):
            (small if self._small.supports(tensor) else large).append((row, tensor))
        if small:
            small_rows, small_tensors = zip(*small, strict=True)
            self._small.measure_into(out, small_rows, small_tensors, loss_scale)
        if large:
            _measure_large(out, large, None if loss_scale is None else loss_scale.item())

    def linear_into(
        self,
        out: Tensor,
        rows: Sequence[int],
        tensors: Sequence[Tensor],
        minimum: Tensor,
        maximum: Tensor,
        loss_scale: Tensor | None,
    ) -> None:
        """Adds to `out` the elements in equal buckets between the ends of each row."""
        loss_scale = None if loss_scale is None else loss_scale.to(out.device)
        self._small.linear_into(out, rows, tensors, minimum, maximum, loss_scale)


def _measure_large(
    out: TensorStatistics, tensors: Sequence[tuple[int, Tensor]], loss_scale: float | None
) -> None:
    """Adds the statistics of tensors to rows of `out`, in several threads that share the chunks."""
    chunks = _Queue(tensors)
    lock = threading.Lock()
    sums: list[tuple[int, int, float, float]] = []
    # A counter grows by these. A single expanded 1 would make `scatter_add_` half as fast.
    ones = torch.ones(CHUNK, dtype=torch.int64, device="cpu")

    # NumPy need not warn of infinities or of sums that overflow float64.
    @torch.no_grad()
    @np.errstate(all="ignore")
    def work() -> None:
        reader = _ChunkReader(loss_scale, ones)
        row: int | None = None
        for index, next_row, chunk in chunks:
            if row is not None and row != next_row:
                reader.flush(out, row, lock)
            row = next_row
            sums.append((index, row, *reader.read(chunk)))
        if row is not None:
            reader.flush(out, row, lock)

    elements = sum(tensor.numel() for _, tensor in tensors)
    threads = max(1, min(torch.get_num_threads(), _MOST_THREADS, elements // (2 * CHUNK)))
    _in_threads(work, threads)
    # Added in the order of the elements, so that rounding does not depend on the threads.
    total, squares = out.sum.numpy(), out.sum_of_squares.numpy()
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
    """The chunks of some tensors, for several threads. Each chunk is yielded to one of them."""

    def __init__(self, tensors: Sequence[tuple[int, Tensor]]) -> None:
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
    def _cut(tensors: Sequence[tuple[int, Tensor]]) -> Iterator[tuple[int, int, Tensor]]:
        index = 0
        for row, tensor in tensors:
            for piece in pieces(tensor.detach(), CHUNK, _TORCH_SERIAL):
                yield index, row, piece
                index += 1


class _ChunkReader:
    """Reads chunks with buffers that are reused. Each thread has a reader of its own.

    Args:
        loss_scale: Loss scale that every element is divided by.
        ones: Ones, int64, shape (CHUNK,), shared by the threads.
    """

    def __init__(self, loss_scale: float | None, ones: Tensor) -> None:
        self._loss_scale, self._ones = loss_scale, ones
        self._double = np.empty(CHUNK, np.float64)
        self._keys = np.empty(CHUNK, np.uint64)
        self._key_counts = torch.zeros(WIDE_KEY_COUNT, dtype=torch.int64, device="cpu")
        self._start()

    def _start(self) -> None:
        self._count, self._zeros, self._nonfinite = 0, 0, 0
        self._minimum, self._maximum = math.inf, -math.inf

    def read(self, chunk: Tensor) -> tuple[float, float]:
        """Counts the elements of a chunk, and keeps the counts until `flush`.

        Returns:
            The sum of the finite elements, and the sum of their squares.
        """
        chunk = chunk.reshape(-1).resolve_neg()
        self._count += chunk.numel()
        exact, wide = self._exact_and_wide(chunk)
        total = float(wide.sum())
        # An infinity or a NaN makes the sum non-finite. Finite float32 values never do.
        if not math.isfinite(total):
            exact = wide = wide[np.isfinite(wide)]
            self._nonfinite += chunk.numel() - wide.size
            if wide.size == 0:
                return 0.0, 0.0
            total = float(wide.sum())
        low, high = float(exact.min()), float(exact.max())
        self._minimum, self._maximum = min(self._minimum, low), max(self._maximum, high)
        squares = _sum_of_squares(wide)
        within_float32 = self._loss_scale is None and chunk.dtype in _WITHIN_FLOAT32
        self._count_keys(wide if within_float32 else _narrowed(wide, max(-low, high)))
        return total, squares

    def flush(self, out: TensorStatistics, row: int, lock: threading.Lock) -> None:
        """Adds the counts of all chunks since the last flush to a row."""
        keys = self._key_counts.numpy()
        for zero_key in (0, WIDE_NEGATIVE_ZERO_KEY):
            self._zeros += int(keys[zero_key])
            keys[zero_key] = 0
        others = self._count - self._nonfinite - self._zeros
        buckets = move_keys_to_buckets(keys, others)
        buckets[ZERO_BUCKET] = self._zeros
        with lock:
            for whole, part in (
                (out.count, self._count),
                (out.zeros, self._zeros),
                (out.nonfinite, self._nonfinite),
                (out.buckets, buckets),
            ):
                whole.numpy()[row] += part
            minimum, maximum = out.minimum.numpy(), out.maximum.numpy()
            minimum[row] = min(minimum[row], self._minimum)
            maximum[row] = max(maximum[row], self._maximum)
        self._start()

    def _exact_and_wide(self, chunk: Tensor) -> tuple[Floats, Floats]:
        """Returns the elements in a dtype for their extremes, and in float64 for their sums.

        The first is float32, in which extremes are found faster, if the chunk is float32.
        """
        wide = self._double[: chunk.numel()]
        if chunk.dtype == torch.float32 and self._loss_scale is None:
            exact: Floats = chunk.numpy()
            np.copyto(wide, exact)
            return exact, wide
        # float64 holds all values exactly, except integers above 2**53.
        places = torch.from_numpy(wide).split(_TORCH_SERIAL)
        for place, part in zip(places, chunk.split(_TORCH_SERIAL), strict=True):
            place.copy_(part)
        if self._loss_scale is not None:
            np.divide(wide, self._loss_scale, out=wide)
        return wide, wide

    def _count_keys(self, values: Floats) -> None:
        keys = self._keys[: values.size]
        np.right_shift(values.view(np.uint64), np.uint64(64 - WIDE_KEY_BITS), out=keys)
        places = torch.from_numpy(keys.view(np.int64))
        self._key_counts.scatter_add_(0, places, self._ones[: values.size])


def _narrowed(wide: Floats, magnitude: float) -> Floats:
    """Returns the elements rounded to float32, as float64.

    Elements that would overflow float32 become its largest value, and elements that would underflow
    its smallest, so that finite elements stay finite and only zeros are zero.
    """
    if magnitude > _FLOAT32.max:
        wide = wide.clip(-_FLOAT32.max, _FLOAT32.max)
    narrow: Floats = wide.astype(np.float32).astype(np.float64)
    vanished = (narrow == 0) & (wide != 0)
    if vanished.any():
        narrow[vanished] = np.copysign(_FLOAT32.smallest_subnormal, wide[vanished])
    return narrow


def _sum_of_squares(values: Floats) -> float:
    """Returns the sum of squares, in scalar products short enough to stay in this thread."""
    rows = values[: values.size // _ROW * _ROW].reshape(-1, 1, _ROW)
    rest = values[rows.size :]
    return float(np.matmul(rows, rows.transpose(0, 2, 1)).sum()) + float(np.dot(rest, rest))
