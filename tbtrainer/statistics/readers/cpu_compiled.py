"""Reads tensors in main memory with the compiled library of `cpu_pass.c`."""

import array
import ctypes
import importlib.util
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from tbtrainer.statistics.readers.cpu import CpuReader
from tbtrainer.statistics.readers.pieces import in_order_of_memory
from tbtrainer.statistics.readers.reader import check_counters
from tbtrainer.statistics.tensor_statistics import TensorStatistics

logger = logging.getLogger(__name__)

_MODULE = "tbtrainer.statistics.readers._cpu_pass"
# `tbtrainer_interface` of the library that has the functions as they are called here.
_INTERFACE = 3
# The numbers of the dtypes in `cpu_elements.h`.
NUMBER_OF_DTYPE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
# Other classes may keep their elements elsewhere, or have none.
_PLAIN_CLASSES = (Tensor, torch.nn.Parameter)


class CompiledCpuReader:
    """Reads CPU tensors of any measurable dtype and any strides.

    The library reads contiguous and transposed tensors of float32, bfloat16, float16 and float64,
    all of them in one call, without the GIL, in as many threads as PyTorch uses. `CpuReader` reads
    the others. The results do not depend on the number of threads.

    Args:
        library: The library, as `load_library` returns it.
    """

    name = "C"
    counter_dtypes: tuple[torch.dtype, ...] = (torch.int32, torch.int64)

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._others = CpuReader()

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
        check_counters(out.buckets, self.counter_dtypes)
        own, other_rows, others = _divided(rows, tensors)
        if own:
            fields = _addresses(
                out.count,
                out.zeros,
                out.nonfinite,
                out.sum,
                out.sum_of_squares,
                out.minimum,
                out.maximum,
                out.buckets,
            )
            _call(self._library.tbtrainer_measure, own, fields, out.buckets, loss_scale)
        if others and out.buckets.dtype == torch.int64:
            self._others.measure_into(out, other_rows, others, loss_scale)
            return
        for row, tensor in zip(other_rows, others, strict=True):
            found = TensorStatistics.empty(1, out.count.device)
            self._others.measure_into(found, [0], [tensor], loss_scale)
            out.add_rows(torch.tensor([row], device="cpu"), found)

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
        check_counters(out, self.counter_dtypes)
        own, other_rows, others = _divided(rows, tensors)
        if own:
            # Kept until the call returns: the extremes may be views with any strides.
            minimum, maximum = minimum.contiguous(), maximum.contiguous()
            fields = _addresses(out, minimum, maximum)
            _call(self._library.tbtrainer_linear, own, fields, out, loss_scale)
        if others:
            counts = out if out.dtype == torch.int64 else torch.zeros_like(out, dtype=torch.int64)
            self._others.linear_into(counts, other_rows, others, minimum, maximum, loss_scale)
            if counts is not out:
                out += counts


def load_library() -> ctypes.CDLL | None:
    """Loads the library, or returns `None` if the installation did not build it."""
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or spec.origin is None:
        logger.debug("The compiled reader was not built; NumPy reads the tensors on the CPU.")
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        interface = ctypes.c_int32.in_dll(library, "tbtrainer_interface").value
    except (OSError, ValueError) as error:
        logger.debug(
            "The compiled reader cannot be loaded (%s); NumPy reads the tensors on the CPU.", error
        )
        return None
    if interface != _INTERFACE:
        logger.debug(
            "The compiled reader is of another version of tbtrainer; NumPy reads the tensors on "
            "the CPU until tbtrainer is installed again."
        )
        return None
    return library


def _divided(
    rows: Sequence[int], tensors: Sequence[Tensor]
) -> tuple["array.array[int]", list[int], list[Tensor]]:
    """Divides tensors into those that the library reads, and the others with their rows.

    The former are four numbers each, as in `struct Tensor`: address, elements, dtype and row.
    """
    own: list[int] = []
    other_rows, others = [], []
    for row, tensor in zip(rows, tensors, strict=True):
        number = NUMBER_OF_DTYPE.get(tensor.dtype)
        if number is not None and is_plain_memory(tensor):
            own += (tensor.data_ptr(), tensor.numel(), number, row)
        else:
            other_rows.append(row)
            others.append(tensor)
    return array.array("Q", own), other_rows, others


def is_plain_memory(tensor: Tensor) -> bool:
    """Returns whether the elements fill a region of memory without gaps, in any order."""
    return (
        tensor.__class__ in _PLAIN_CLASSES
        and (tensor.is_contiguous() or in_order_of_memory(tensor).is_contiguous())
        # The imaginary part of a conjugate view has the negated elements in memory.
        and not tensor.is_neg()
        # A sharded parameter may have released its memory.
        and tensor.data_ptr() != 0
    )


def _addresses(*tensors: Tensor) -> "ctypes.Array[ctypes.c_void_p]":
    """Returns the addresses of contiguous tensors, as in `struct Rows` and `struct LinearRows`."""
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _call(
    function: "ctypes._NamedFuncPointer",
    tensors: "array.array[int]",
    fields: "ctypes.Array[ctypes.c_void_p]",
    counters: Tensor,
    loss_scale: Tensor | None,
) -> None:
    address, numbers = tensors.buffer_info()
    # Waits if the loss scale is on an accelerator.
    scale = None if loss_scale is None else ctypes.byref(ctypes.c_double(loss_scale.item()))
    failed = function(
        ctypes.c_void_p(address),
        ctypes.c_int64(numbers // 4),
        fields,
        ctypes.c_int64(counters.element_size()),
        scale,
        ctypes.c_int64(torch.get_num_threads()),
    )
    if failed:
        raise MemoryError("the compiled reader found no memory for its counters")
