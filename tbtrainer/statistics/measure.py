"""Statistics of a list of tensors in one pass over their memory."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from tbtrainer.statistics.buckets import LINEAR_BUCKET_COUNT
from tbtrainer.statistics.readers.reader import Backend, give_up_kernels, plain_reader, reader_of
from tbtrainer.statistics.tensor_statistics import TensorStatistics


def why_not_measurable(tensor: Tensor) -> str | None:
    """Returns why a tensor has no elements to be read, or `None` if it can be measured."""
    if tensor.device.type == "meta":
        return "it is on the meta device, without data"
    if tensor.layout != torch.strided:
        return f"it is sparse ({tensor.layout})"
    if tensor.is_quantized:
        return f"it is quantised ({tensor.dtype})"
    if tensor.is_complex():
        return f"its elements are complex numbers ({tensor.dtype})"
    return None


@torch.no_grad()
def measure(
    tensors: Sequence[Tensor | None],
    device: torch.device,
    divisor: Tensor | None = None,
    backend: Backend = "auto",
) -> TensorStatistics:
    """Measures tensors in one pass, without waiting for an accelerator.

    Args:
        tensors: Strided tensors of any dtype but complex and quantised ones, any shape and any
            strides, on any devices. `None` and empty ones give a row of nothing.
        device: Where the result is put.
        divisor: What every element is divided by first, a scalar tensor: the loss scale.
        backend: Which code reads the tensors; see `reader_of`.

    Returns:
        One row per tensor, on `device`.
    """
    result = TensorStatistics.empty(len(tensors), device)
    for (source, reader), rows in _rows_by_reader(tensors, backend).items():
        chosen = [tensors[row] for row in rows]
        found = _tried(_measured_by, reader, source, backend, chosen, divisor)
        if len(rows) == len(tensors):
            return found.to(device)
        index = torch.tensor(rows, device="cpu").to(device, non_blocking=True)
        for f in fields(found):
            getattr(result, f.name)[index] = getattr(found, f.name).to(device, non_blocking=True)
    return result


@torch.no_grad()
def measure_linear(
    tensors: Sequence[Tensor | None],
    minimum: Tensor,
    maximum: Tensor,
    divisor: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Counts the elements in equal buckets between given ends, without a word of the host.

    Values close together far from zero, such as LayerNorm weights, fall into a handful of the
    fixed buckets; here they spread.

    Args:
        tensors: As for `measure`.
        minimum: Least finite element of each whole tensor. float64, shape (tensors,).
        maximum: Greatest finite element of each whole tensor. float64, shape (tensors,).
        divisor: As for `measure`.
        backend: As for `measure`.

    Returns:
        Finite elements per bucket. int64, shape (tensors, LINEAR_BUCKET_COUNT), on the device of
        `minimum`.
    """
    device = minimum.device
    counts = torch.zeros(len(tensors), LINEAR_BUCKET_COUNT, dtype=torch.int64, device=device)
    for (source, reader), rows in _rows_by_reader(tensors, backend).items():
        chosen = [tensors[row] for row in rows]
        index = torch.tensor(rows, device="cpu").to(device, non_blocking=True)
        low, high = (end[index].to(source, non_blocking=True) for end in (minimum, maximum))
        found = _tried(_counted_by, reader, source, backend, chosen, low, high, divisor)
        counts[index] = found.to(device, non_blocking=True)
    return counts


_Reader = tuple[torch.device, ModuleType]
_Read = TypeVar("_Read")


def _rows_by_reader(tensors: Sequence[Tensor | None], backend: Backend) -> dict[_Reader, list[int]]:
    rows: dict[_Reader, list[int]] = {}
    for row, tensor in enumerate(tensors):
        if tensor is not None and tensor.numel() > 0:
            rows.setdefault((tensor.device, reader_of(tensor, backend)), []).append(row)
    return rows


def _tried(
    read: Callable[..., _Read],
    reader: ModuleType,
    source: torch.device,
    backend: Backend,
    *arguments: Any,
) -> _Read:
    """Reads with a reader, or, if that was a kernel that failed, with the plain one."""
    try:
        return read(reader, source, *arguments)
    except Exception as error:
        if backend == "kernel" or reader is plain_reader(source):
            raise
        give_up_kernels(error)
        return read(plain_reader(source), source, *arguments)


def _measured_by(
    reader: ModuleType, source: torch.device, tensors: Sequence[Tensor], divisor: Tensor | None
) -> TensorStatistics:
    found = TensorStatistics.empty(len(tensors), source)
    reader.measure_into(found, tensors, divisor)
    return found


def _counted_by(
    reader: ModuleType,
    source: torch.device,
    tensors: Sequence[Tensor],
    low: Tensor,
    high: Tensor,
    divisor: Tensor | None,
) -> Tensor:
    shape = (len(tensors), LINEAR_BUCKET_COUNT)
    counts = torch.zeros(shape, dtype=torch.int64, device=source)
    reader.linear_into(counts, tensors, low, high, divisor)
    return counts
