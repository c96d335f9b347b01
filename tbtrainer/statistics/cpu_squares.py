"""Sums of squares of tensors in main memory: in float32 by lanes, or in float64."""

from collections.abc import Sequence
from operator import itemgetter
from typing import TypeAlias, TypeGuard

import numpy as np
import torch
from torch import Tensor

from tbtrainer.statistics.norm_values import KindChanged, values_of
from tbtrainer.statistics.readers.pieces import in_order_of_memory, pieces

Tensors: TypeAlias = Sequence[Tensor | None]

# Most elements of a lane: elements whose squares are added up in float32. PyTorch adds them up in
# at least eight sums side by side, so a sum has a relative error below 1.5e-6 and its root half of
# it. The sums of the lanes are added up in float64.
MOST_IN_LANE = 256
# A shorter lane takes as long as its elements in float64 do.
_LEAST_IN_LANE = 32
# Elements that are converted to float64 at a time.
PIECE = 65_536
# Squares below 2**-126 may be flushed to zero in float32. If the mean square of a tensor is above
# this number, less than 1e-7 of its sum is lost.
LEAST_MEAN_SQUARE = 1.2e-31


def lane_length(elements: int) -> int:
    """Returns the number of elements of each lane of a tensor; 0 if it cannot be cut into lanes.

    It is the largest divisor of `elements` that is not above `MOST_IN_LANE`.

    Args:
        elements: Number of elements of the tensor, at least 1.
    """
    for length in range(MOST_IN_LANE, _LEAST_IN_LANE - 1, -1):
        if elements % length == 0:
            return length
    return 0


class Joined:
    """Small tensors of one dtype, copied one after the other into one tensor.

    Args:
        places: Positions of the tensors in the list.
        tensors: All tensors of the first step, by position.
        length: Number of elements of each lane; 0 if there are none.
        wide: Memory for at least as many elements, which other objects use as well. float64.

    Attributes:
        places: The argument of this name.
        lanes: Number of lanes of each tensor, empty if `length` is 0.
    """

    def __init__(
        self, places: list[int], tensors: dict[int, Tensor], length: int, wide: Tensor
    ) -> None:
        self.places = places
        sizes = [tensors[place].numel() for place in places]
        self.lanes = [size // length for size in sizes] if length else []
        first = tensors[places[0]]
        self._dtype = first.dtype
        # Of one tensor, `itemgetter` would return the tensor instead of a tuple.
        self._chosen = itemgetter(*places, places[0])
        self._is_alike = len({tensors[place].shape for place in places}) == 1
        self._sizes = sizes
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._in_lanes = (sum(self.lanes), length)
        self._wide = wide[: sum(sizes)]

    def read(self, tensors: Tensors, norms: Tensor) -> None:
        """Puts the norm of each lane into `norms`, float32. Squares may overflow or be flushed."""
        joined = self._joined(tensors)
        if joined.dtype != torch.float32:
            joined = joined.float()
        torch.linalg.vector_norm(joined.reshape(self._in_lanes), dim=1, out=norms)

    def squares(self, tensors: Tensors) -> np.ndarray:
        """Returns the sum of the squares of each tensor, computed in float64."""
        joined = self._joined(tensors)
        squares = self._wide.copy_(joined.reshape(self._wide.shape)).square_()
        found: np.ndarray = np.add.reduceat(squares.numpy(), self._starts)
        return found

    def _joined(self, tensors: Tensors) -> Tensor:
        parts: tuple[Tensor, ...] = self._chosen(tensors)[:-1]
        if self._is_alike:
            # Fails unless all shapes are equal. `reshape` fails if they are too large or too small.
            joined = torch.stack(parts)
        else:
            if [part.numel() for part in parts] != self._sizes:
                raise KindChanged
            joined = torch.cat([part.reshape(-1) for part in parts])
        if joined.dtype != self._dtype or not joined.is_cpu:
            raise KindChanged
        return joined


class InPlace:
    """A float32 tensor without gaps in memory, read where it is.

    Args:
        place: Position of the tensor in the list.
        tensor: The tensor of the first step.
        length: Number of elements of each lane.
        wide: Memory for `PIECE` elements, which other objects use as well. float64.

    Attributes:
        places: The position.
        lanes: The number of lanes.
    """

    def __init__(self, place: int, tensor: Tensor, length: int, wide: Tensor) -> None:
        self.places = [place]
        self.lanes = [tensor.numel() // length]
        self._place = place
        by_stride = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
        self._order = None if tensor.is_contiguous() else by_stride
        self._in_lanes = (self.lanes[0], length)
        self._wide = wide

    def read(self, tensors: Tensors, norms: Tensor) -> None:
        """Puts the norm of each lane into `norms`, float32. Squares may overflow or be flushed."""
        tensor: Tensor = tensors[self._place]  # type: ignore[assignment]
        if self._order is not None:
            tensor = tensor.permute(self._order)
        # One of the two fails if the layout, the size, the dtype or the device is another one.
        torch.linalg.vector_norm(tensor.view(self._in_lanes), dim=1, out=norms)

    def squares(self, tensors: Tensors) -> np.ndarray:
        """Returns the sum of the squares, computed in float64."""
        return np.array([_square(tensors[self._place], self._wide)])


class Single:
    """A tensor of any kind, read by pieces.

    Args:
        place: Position of the tensor in the list.
        wide: Memory for `PIECE` elements, which other objects use as well. float64.

    Attributes:
        places: The position.
        lanes: Empty.
    """

    lanes: Sequence[int] = ()

    def __init__(self, place: int, wide: Tensor) -> None:
        self.places = [place]
        self._place = place
        self._wide = wide

    def read(self, tensors: Tensors, norms: Tensor) -> None:
        """Does nothing: there are no lanes."""

    def squares(self, tensors: Tensors) -> np.ndarray:
        """Returns the sum of the squares, computed in float64 where float32 is not accurate."""
        tensor = tensors[self._place]
        if _is_strided_float32(tensor):
            ordered = in_order_of_memory(tensor)
            if ordered.is_contiguous():
                square = _float32_square(ordered.view(-1))
                if LEAST_MEAN_SQUARE * tensor.numel() <= square < torch.inf:
                    return np.array([square])
        return np.array([_square(tensor, self._wide)])


def _is_strided_float32(tensor: Tensor | None) -> TypeGuard[Tensor]:
    return (
        tensor is not None
        and tensor.dtype == torch.float32
        and tensor.layout == torch.strided
        and tensor.is_cpu
    )


def _square(tensor: Tensor | None, wide: Tensor) -> float:
    """Returns the sum of the squares of a tensor of any kind, computed in float64."""
    if tensor is None or tensor.device.type != "cpu":
        raise KindChanged
    square = 0.0
    for piece in pieces(values_of(tensor), PIECE, PIECE):
        values = wide[: piece.numel()].copy_(piece.reshape(-1))
        square += float(torch.dot(values, values))
    return square


def _float32_square(flat: Tensor) -> float:
    """Returns the sum of the squares of a contiguous float32 tensor.

    It is infinite if a square overflows, and too small if squares are flushed to zero.
    """
    whole = flat.numel() // MOST_IN_LANE * MOST_IN_LANE
    norms = torch.linalg.vector_norm(flat[:whole].view(-1, MOST_IN_LANE), dim=1).to(torch.float64)
    rest = flat[whole:].to(torch.float64)
    return float(torch.dot(norms, norms)) + float(torch.dot(rest, rest))
