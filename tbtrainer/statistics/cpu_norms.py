"""Norms of tensors in main memory. Small tensors are read together in batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tbtrainer.statistics.norm_values import PLAIN_DTYPES, values_of
from tbtrainer.statistics.readers.pieces import in_order_of_memory, pieces

# Most elements of a tensor that is read in a batch, and most elements of a batch.
_SMALL = 16_384
_BATCH = 65_536
# Fewest tensors of one shape that form a batch without tensors of other shapes.
_ALIKE = 4
# Elements whose squares are added up in float32. These sums are then added up in float64.
_LANES = 128
# Squares below 2**-126 may be flushed to zero in float32. If the mean square of a tensor is above
# this number, less than 1e-7 of its sum is lost.
_LEAST_MEAN_SQUARE = 1.2e-31


class KindChanged(Exception):
    """Raised when a tensor is not of the kind that the plan was made for."""


@dataclass(frozen=True)
class _Batch:
    """Small tensors on the CPU that are read together.

    Attributes:
        places: Positions of the tensors in the list.
        sizes: Number of elements of each tensor.
        starts: Where each tensor begins in the batch; `None` if all have the same shape.
        wide: Receives the elements. float64, a view of memory that all batches share.
        norms: Receives the norms. float64, shape (tensors,), a view of the norms of all tensors.
    """

    places: list[int]
    sizes: list[int]
    starts: np.ndarray | None
    wide: Tensor
    norms: Tensor

    def read(self, tensors: Sequence[Tensor | None]) -> None:
        parts: list[Tensor] = [tensors[place] for place in self.places]  # type: ignore[misc]
        if self.starts is None:
            joined = torch.stack(parts)
        else:
            if [part.numel() for part in parts] != self.sizes:
                raise KindChanged
            joined = torch.cat([part.reshape(-1) for part in parts])
        if joined.dtype not in PLAIN_DTYPES or joined.device.type != "cpu":
            raise KindChanged
        self.wide.copy_(joined.reshape(self.wide.shape))
        if self.starts is None:
            torch.linalg.vector_norm(self.wide, dim=1, out=self.norms)
        else:
            squares = self.wide.mul_(self.wide).numpy()
            np.add.reduceat(squares, self.starts, out=self.norms.numpy())
            self.norms.sqrt_()


class CpuNorms:
    """Computes norms of tensors in main memory, in float64 where float32 is not accurate enough.

    Args:
        tensors: The tensors of the first step, by position in the list.
        device: The device on which `index` is put.

    Attributes:
        unit: The norms are given in multiples of this number.
        index: Position in the list of each norm that `norms` returns. int64, shape (tensors,).
    """

    unit = 1.0

    def __init__(self, tensors: dict[int, Tensor], device: torch.device) -> None:
        # Shared by all batches: it stays in the cache, and each batch overwrites it.
        self._wide = torch.empty(_BATCH, dtype=torch.float64, device="cpu")
        self._norms = torch.empty(len(tensors), dtype=torch.float64, device="cpu")
        self._batches: list[_Batch] = []
        places: list[int] = []
        alike, others, self._single = _grouped(tensors)
        for group, is_alike in ((alike, True), (others, False)):
            for chosen in group:
                sizes = [tensors[place].numel() for place in chosen]
                self._batches.append(self._batch(chosen, sizes, len(places), is_alike))
                places += chosen
        self._first_single = len(places)
        self.index = torch.tensor(places + self._single, device="cpu").to(device, non_blocking=True)

    def norms(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Returns the norms in the order of `index`. float64."""
        for batch in self._batches:
            batch.read(tensors)
        single = [self._norm(tensors[place]) for place in self._single]  # type: ignore[arg-type]
        if single:
            self._norms[self._first_single :] = torch.tensor(
                single, dtype=torch.float64, device="cpu"
            )
        return self._norms

    def _batch(self, places: list[int], sizes: list[int], begin: int, is_alike: bool) -> _Batch:
        wide = self._wide[: sum(sizes)]
        starts = None if is_alike else np.cumsum([0, *sizes[:-1]])
        norms = self._norms[begin : begin + len(places)]
        return _Batch(places, sizes, starts, wide.view(-1, sizes[0]) if is_alike else wide, norms)

    def _norm(self, tensor: Tensor) -> float:
        if tensor.device.type != "cpu":
            raise KindChanged
        values = values_of(tensor)
        if values.dtype == torch.float32:
            ordered = in_order_of_memory(values)
            if ordered.is_contiguous():
                square = _float32_square(ordered.view(-1))
                if _LEAST_MEAN_SQUARE * values.numel() <= square < torch.inf:
                    return float(square**0.5)
        square = 0.0
        for piece in pieces(values, _BATCH, _BATCH):
            wide = self._wide[: piece.numel()].copy_(piece.reshape(-1))
            square += float(torch.dot(wide, wide))
        return float(square**0.5)


def _grouped(tensors: dict[int, Tensor]) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Groups the positions of tensors: batches of one shape, other batches, and single tensors."""
    by_kind: dict[object, list[int]] = {}
    single: list[int] = []
    for place, tensor in tensors.items():
        is_plain = tensor.layout == torch.strided and tensor.dtype in PLAIN_DTYPES
        if is_plain and tensor.numel() <= _SMALL:
            by_kind.setdefault((tensor.dtype, tensor.shape), []).append(place)
        else:
            single.append(place)
    alike: list[list[int]] = []
    by_dtype: dict[torch.dtype, list[int]] = {}
    for places in by_kind.values():
        first = tensors[places[0]]
        most = _BATCH // first.numel()
        if len(places) >= _ALIKE:
            alike += [places[begin : begin + most] for begin in range(0, len(places), most)]
        else:
            by_dtype.setdefault(first.dtype, []).extend(places)
    others: list[list[int]] = []
    for places in by_dtype.values():
        room = 0
        for place in places:
            size = tensors[place].numel()
            if size > room:
                others.append([])
                room = _BATCH
            others[-1].append(place)
            room -= size
    return alike, others, single


def _float32_square(flat: Tensor) -> float:
    """Returns the sum of the squares of a contiguous float32 tensor on the CPU.

    Only `_LANES` squares at a time are added up in float32. The result is infinite if a square
    overflows, and too small if squares are flushed to zero.
    """
    whole = flat.numel() // _LANES * _LANES
    norms = torch.linalg.vector_norm(flat[:whole].view(-1, _LANES), dim=1).to(torch.float64)
    rest = flat[whole:].to(torch.float64)
    return float(torch.dot(norms, norms)) + float(torch.dot(rest, rest))
