"""Norms of tensors in main memory, computed by the compiled library in one call."""

import array
import ctypes
import functools
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Tensor

from tbtrainer.statistics.norm_values import KindChanged
from tbtrainer.statistics.readers.cpu_compiled import (
    NUMBER_OF_DTYPE,
    is_plain_memory,
    load_library,
)

_dtype_of = attrgetter("dtype")
_is_in_main_memory = attrgetter("is_cpu")
# Loaded once in a process.
loaded_library = functools.cache(load_library)


class _Plan(ctypes.Structure):
    """`Plan` in `cpu_squares.c`."""

    _fields_ = (
        ("sizes", ctypes.c_void_p),
        ("dtypes", ctypes.c_void_p),
        ("number", ctypes.c_int64),
    )


def is_readable(tensor: Tensor) -> bool:
    """Returns whether `CompiledNorms` can read a tensor.

    It can if the elements are float32, bfloat16, float16 or float64 numbers in main memory that
    fill a region without gaps, in any order.
    """
    return (
        tensor.layout == torch.strided
        and tensor.dtype in NUMBER_OF_DTYPE
        and tensor.is_cpu
        and is_plain_memory(tensor)
    )


class CompiledNorms:
    """Computes norms of tensors in main memory, in float64.

    The squares are added up in a fixed order, so the number of threads changes no bit. The GIL is
    released meanwhile.

    Args:
        tensors: The tensors of the first step, by position in the list. `is_readable` is true for
            each.
        device: The device on which `index` is put.
        library: The library, as `load_library` returns it.

    Attributes:
        unit: The norms are given in multiples of this number.
        is_in_order: Whether `index` ascends.
        index: Position in the list of each norm that `norms` returns. int64, shape (tensors,).
    """

    unit = 1.0
    is_in_order = True

    def __init__(
        self, tensors: dict[int, Tensor], device: torch.device, library: ctypes.CDLL
    ) -> None:
        places = list(tensors)
        self.index = torch.tensor(places, device="cpu").to(device, non_blocking=True)
        # Of one tensor, `itemgetter` would return the tensor instead of a tuple.
        self._chosen = itemgetter(*places, places[0])
        # What every step has to have in common with the first. Memory is read by address, so a
        # tensor that differs in one of them must not be read.
        self._are_equal_in_kind = _kind_guards(tensors.values())
        self._classes = [type(tensor) for tensor in tensors.values()]
        self._dtypes = [tensor.dtype for tensor in tensors.values()]
        self._sizes = [tensor.numel() for tensor in tensors.values()]
        self._are_contiguous = [tensor.is_contiguous() for tensor in tensors.values()]
        self._all_in_main_memory = [True] * len(places)
        self._strides = {
            number: (tensor.shape, tensor.stride())
            for number, tensor in enumerate(tensors.values())
            if not tensor.is_contiguous()
        }
        # Referred to by address in `self._plan`.
        self._size_array = array.array("q", self._sizes)
        self._dtype_array = array.array("q", [NUMBER_OF_DTYPE[dtype] for dtype in self._dtypes])
        self._plan = _Plan(
            self._size_array.buffer_info()[0], self._dtype_array.buffer_info()[0], len(places)
        )
        self._norms = torch.empty(len(places), dtype=torch.float64, device="cpu")
        self._squares_of = library.tbtrainer_squares
        # The arguments that are equal at every step.
        self._plan_pointer = ctypes.byref(self._plan)
        self._norms_pointer = ctypes.c_void_p(self._norms.data_ptr())

    def norms(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Returns the norms in the order of `index`. float64.

        Raises:
            KindChanged: A tensor is not of the same kind as in the first step.
        """
        parts = self._chosen(tensors)[:-1]
        if not self._are_equal_in_kind(*parts):
            self._check_kinds(parts)
        # Fails for tensors of other layouts, which have no storage.
        addresses = array.array("Q", list(map(Tensor.data_ptr, parts)))
        failed = self._squares_of(
            self._plan_pointer,
            ctypes.c_void_p(addresses.buffer_info()[0]),
            self._norms_pointer,
            ctypes.c_int64(torch.get_num_threads()),
        )
        if failed:
            raise KindChanged
        return self._norms.sqrt_()

    def _check_kinds(self, parts: tuple[Tensor, ...]) -> None:
        """Raises `KindChanged` unless all tensors are of the planned kind."""
        if (
            list(map(type, parts)) != self._classes
            or list(map(_dtype_of, parts)) != self._dtypes
            or list(map(_is_in_main_memory, parts)) != self._all_in_main_memory
            or list(map(Tensor.numel, parts)) != self._sizes
            or list(map(Tensor.is_contiguous, parts)) != self._are_contiguous
        ):
            raise KindChanged
        for number, strides in self._strides.items():
            if (parts[number].shape, parts[number].stride()) != strides:
                raise KindChanged


def _kind_guards(tensors: Iterable[Tensor]) -> Callable[..., bool]:
    """Returns a function that checks in one call whether tensors are of the kind of these.

    It takes as many tensors. The result is true only if each has the class, dtype, layout, device,
    shape and strides of the one in its place. It may be false although they are readable in the
    same way: when only the strides of dimensions of length 1 differ, when they require gradients,
    when one tensor is passed twice, or when autocast is on and was off before.

    The function is that of the guards of compiled graphs, which is private to PyTorch (torch 2.6 to
    2.13). Without it, the result is always false.
    """
    tensors = list(tensors)
    try:
        from torch._C._dynamo.guards import TensorGuards

        # The type hints of torch 2.13 lack the tensors, and take one list for a list of lists.
        make: Any = TensorGuards
        check: Callable[..., bool] = make(
            *tensors,
            dynamic_dims_sizes=[list(tensor.shape) for tensor in tensors],
            dynamic_dims_strides=[list(tensor.stride()) for tensor in tensors],
        ).check
        return check
    except Exception:
        return lambda *tensors: False
