"""Norms of tensors in main memory: small ones together, all added up in float64."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tbtrainer.statistics.norm_values import PLAIN_DTYPES, values_of
from tbtrainer.statistics.readers.pieces import in_order_of_memory, pieces

# Tensors on the CPU of up to so many elements are read in batches of up to so many.
_SMALL = 16_384
_BATCH = 65_536
# So many tensors of one shape make a batch of their own.
_ALIKE = 4
# Elements that are added up in float32; the sums are then added in float64.
_LANES = 128
# Squares of float32 below 2**-126 may be lost. A tensor whose mean square is above this lost less
# than 1e-7 of its sum.
_LEAST_MEAN_SQUARE = 1.2e-31


class KindChanged(Exception):
    """Raised when a tensor is of another kind than the plan was made for."""


@dataclass(frozen=True)
class _Batch:
    """Small tensors on the CPU that are read together.

    Attributes:
        places: Of the tensors in the list.
        sizes: Their elements.
        starts: Where each begins in the batch; `None` if they are all of one shape.
        wide: Takes their elements. float64, a view of memory that all batches share.
        norms: Takes their norms. float64, a view.
    """

    places: list[int]
    sizes: list[int]
    starts: "np.ndarray | None"
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
    """Norms of tensors in main memory, which are added up in float64 throughout.

    Args:
        tensors: Of the first step, by place in the list.
        device: Where `index` is put.
    """

    unit = 1.0

    def __init__(self, tensors: dict[int, Tensor], device: torch.device) -> None:
        # Batches are read in the cache, and every one of them anew.
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
    """Which tensors are read together: batches of one shape, other batches, and single tensors."""
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
    """Sum of the squares of a contiguous float32 tensor on the CPU: in float32 a short way only.

    Infinite where squares overflow, and too small where they vanish.
    """
    whole = flat.numel() // _LANES * _LANES
    norms = torch.linalg.vector_norm(flat[:whole].view(-1, _LANES), dim=1).to(torch.float64)
    rest = flat[whole:].to(torch.float64)
    return float(torch.dot(norms, norms)) + float(torch.dot(rest, rest))
