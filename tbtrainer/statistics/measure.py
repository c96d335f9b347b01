"""Statistics of a list of tensors in one pass over their memory."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from tbtrainer.statistics.buckets import LINEAR_BUCKET_COUNT
from tbtrainer.statistics.devices import moved, statistics_device
from tbtrainer.statistics.readers.choice import (
    Backend,
    give_up_kernels,
    is_out_of_memory,
    plain_reader,
)
from tbtrainer.statistics.readers.reader import Reader
from tbtrainer.statistics.shares import Share, in_parts, shares_of
from tbtrainer.statistics.tensor_statistics import TensorStatistics

logger = logging.getLogger(__name__)

# Every reader counts tensors of these dtypes exactly. Other dtypes are refused: they may pack
# several values into an element, or have no conversion to float64. Test a dtype before adding it.
MEASURABLE_DTYPES = frozenset(
    {
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    }
)

_Result = TypeVar("_Result")


def why_not_measurable(tensor: Tensor) -> str | None:
    """Returns why a tensor cannot be measured, or `None` if it can."""
    if tensor.device.type == "meta":
        return "it is on the meta device, without data"
    if tensor.layout != torch.strided:
        return f"it is sparse ({tensor.layout})"
    if tensor.is_quantized:
        return f"it is quantised ({tensor.dtype})"
    if tensor.is_complex():
        return f"its elements are complex numbers ({tensor.dtype})"
    if tensor.dtype not in MEASURABLE_DTYPES:
        return f"its dtype is not supported ({tensor.dtype})"
    return None


@torch.no_grad()
def measure(
    tensors: Sequence[Tensor | None],
    device: torch.device,
    loss_scale: Tensor | None = None,
    backend: Backend = "auto",
    rows: Sequence[int] | None = None,
    row_count: int | None = None,
) -> TensorStatistics:
    """Measures tensors in one pass over their memory, without waiting for an accelerator.

    Args:
        tensors: Measurable tensors of any shape and strides, on any devices. `None` and empty
            tensors add no elements.
        device: The device on which the result is put. It must have float64.
        loss_scale: Loss scale that every element is divided by, a scalar tensor.
        backend: Which reader reads the tensors; see `reader_of`.
        rows: The row of each tensor; several tensors may share one. `None`: one row per tensor.
        row_count: Number of rows of the result. `None`: one row per tensor.

    Returns:
        The statistics of each row, on `device`.
    """
    out = TensorStatistics.empty(len(tensors) if row_count is None else row_count, device)
    measure_into(out, tensors, loss_scale, backend, rows)
    return out


@torch.no_grad()
def measure_into(
    out: TensorStatistics,
    tensors: Sequence[Tensor | None],
    loss_scale: Tensor | None = None,
    backend: Backend = "auto",
    rows: Sequence[int] | None = None,
) -> None:
    """Does what `measure` does, into statistics that hold no element yet.

    Most readers count in int64 only. If the counters of `out` are int32, or on another device, the
    rows are then read some at a time, so that the int64 counters of all of them never exist
    together.

    Args:
        out: Statistics without any element. Changed in place.
        tensors: See `measure`.
        loss_scale: See `measure`.
        backend: See `measure`.
        rows: See `measure`.
    """
    shares = shares_of(tensors, rows, backend)
    if len(shares) == 1 and shares[0].counts_in(out.buckets):
        (share,) = shares

        def read(reader: Reader) -> None:
            reader.measure_into(out, share.rows, share.tensors, loss_scale)

        _with_fallback(share, backend, read, out.clear)
        return
    for own_rows, share in in_parts(shares, len(out.count)):
        found = _measured(share, len(own_rows), loss_scale, backend)
        out.add_rows(_index(own_rows, out.count.device), found.to(out.count.device))


@torch.no_grad()
def measure_linear(
    tensors: Sequence[Tensor | None],
    minimum: Tensor,
    maximum: Tensor,
    loss_scale: Tensor | None = None,
    backend: Backend = "auto",
    rows: Sequence[int] | None = None,
) -> Tensor:
    """Counts the elements in equal buckets between the extremes of each row: the linear pass.

    Values that are close together and far from zero, such as LayerNorm weights, fall into few of
    the fixed buckets. The linear pass resolves them. It does not wait for an accelerator.

    Args:
        tensors: See `measure`.
        minimum: Smallest finite element of the whole tensors of each row. float64, shape (rows,).
        maximum: Largest finite element of the whole tensors of each row. float64, shape (rows,).
        loss_scale: See `measure`.
        backend: See `measure`.
        rows: See `measure`.

    Returns:
        Finite elements per bucket. int64, shape (rows, LINEAR_BUCKET_COUNT), on the device of
        `minimum`.
    """
    shape = (len(minimum), LINEAR_BUCKET_COUNT)
    counts = torch.zeros(shape, dtype=torch.int64, device=minimum.device)
    measure_linear_into(counts, tensors, minimum, maximum, loss_scale, backend, rows)
    return counts


@torch.no_grad()
def measure_linear_into(
    out: Tensor,
    tensors: Sequence[Tensor | None],
    minimum: Tensor,
    maximum: Tensor,
    loss_scale: Tensor | None = None,
    backend: Backend = "auto",
    rows: Sequence[int] | None = None,
) -> None:
    """Does what `measure_linear` does, into counters that are 0.

    Args:
        out: Counters, int32 or int64, shape (rows, LINEAR_BUCKET_COUNT). Changed in place.
        tensors: See `measure`.
        minimum: See `measure_linear`. Elements outside of the ends are counted in the first and in
            the last bucket.
        maximum: See `measure_linear`.
        loss_scale: See `measure`.
        backend: See `measure`.
        rows: See `measure`.
    """
    shares = shares_of(tensors, rows, backend)
    if len(shares) == 1 and shares[0].counts_in(out):
        (share,) = shares

        def read(reader: Reader) -> None:
            reader.linear_into(out, share.rows, share.tensors, minimum, maximum, loss_scale)

        _with_fallback(share, backend, read, out.zero_)
        return
    for own_rows, share in in_parts(shares, len(out)):
        index = _index(own_rows, out.device)
        found = _counted(share, minimum[index], maximum[index], loss_scale, backend)
        out.index_add_(0, index, moved(found, out.device).to(out.dtype))


def prepare(dtypes: Iterable[torch.dtype], device: torch.device) -> None:
    """Measures one element of each dtype, so that no later call has to compile or load a kernel.

    No error is raised. If a kernel fails, another reader takes its place, as in `measure`.

    Args:
        dtypes: Dtypes of the tensors that will be measured. Those that cannot be are left out.
        device: Their device.
    """
    try:
        tensors = [
            torch.zeros(1, dtype=dtype, device=device) for dtype in set(dtypes) & MEASURABLE_DTYPES
        ]
        # Triton has kernels of their own for tensors with a loss scale.
        for loss_scale in (None, torch.ones((), device=device)):
            found = measure(tensors, statistics_device(device), loss_scale)
            measure_linear(tensors, found.minimum, found.maximum, loss_scale)
    except Exception as error:
        # Such as memory that has run out. If it still has at the first snapshot, that one fails.
        logger.debug("The kernels were not prepared: %s", error)


def _measured(
    share: Share, row_count: int, loss_scale: Tensor | None, backend: Backend
) -> TensorStatistics:
    def read(reader: Reader) -> TensorStatistics:
        out = TensorStatistics.empty(row_count, statistics_device(share.device))
        reader.measure_into(out, share.rows, share.tensors, loss_scale)
        return out

    return _with_fallback(share, backend, read, _nothing)


def _counted(
    share: Share, minimum: Tensor, maximum: Tensor, loss_scale: Tensor | None, backend: Backend
) -> Tensor:
    device = statistics_device(share.device)
    minimum, maximum = moved(minimum, device), moved(maximum, device)

    def read(reader: Reader) -> Tensor:
        shape = (len(minimum), LINEAR_BUCKET_COUNT)
        out = torch.zeros(shape, dtype=torch.int64, device=device)
        reader.linear_into(out, share.rows, share.tensors, minimum, maximum, loss_scale)
        return out

    return _with_fallback(share, backend, read, _nothing)


def _nothing() -> None:
    """Undoes a failed attempt that has left nothing behind."""


def _with_fallback(
    share: Share,
    backend: Backend,
    read: Callable[[Reader], _Result],
    undo: Callable[[], object],
) -> _Result:
    """Reads a share with its reader, and with the next one if a kernel of that reader failed.

    `undo` takes out what a failed attempt has counted.

    An out-of-memory error is raised at once: the plain reader needs more memory than the kernels,
    and the kernels may find enough at the next snapshot.
    """
    reader, plain = share.reader, plain_reader(share.device)
    failed: set[str] = set()
    while True:
        try:
            return read(reader)
        except Exception as error:
            if backend == "kernel" or reader is plain or is_out_of_memory(error):
                raise
            give_up_kernels(reader, error)
        # Not inside `except`: while `error` exists, it keeps the tensors of the failed attempt
        # alive.
        undo()
        failed.add(reader.name)
        other = share.current_reader(backend)
        reader = plain if other is None or other.name in failed else other


def _index(rows: list[int], device: torch.device) -> Tensor:
    return moved(torch.tensor(rows, dtype=torch.int64, device="cpu"), device)
