"""Norms of tensors in main memory by PyTorch. Small tensors are read together in batches.

They are read in this way where the compiled library cannot read them, or was not built.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from tbtrainer.statistics.cpu_squares import (
    LEAST_MEAN_SQUARE,
    MOST_IN_LANE,
    PIECE,
    InPlace,
    Joined,
    Single,
    lane_length,
)
from tbtrainer.statistics.norm_values import PLAIN_DTYPES
from tbtrainer.statistics.readers.pieces import in_order_of_memory

# Most elements of a tensor that is read in a batch. Copying a larger one takes longer than a call.
_SMALL = 16_384
# Most elements of a tensor whose lanes are kept, 4 bytes for each lane.
_MEDIUM = 2**20
# Fewest tensors of one shape that form a batch without tensors of other shapes.
_ALIKE = 4


class CpuNorms:
    """Computes norms of tensors in main memory, in float64 where float32 is not accurate enough.

    Args:
        tensors: The tensors of the first step, by position in the list.
        device: The device on which `index` is put.

    Attributes:
        unit: The norms are given in multiples of this number.
        is_in_order: Whether `index` always ascends.
        index: Position in the list of each norm that `norms` returns. int64, shape (tensors,).
    """

    unit = 1.0
    is_in_order = False

    def __init__(self, tensors: dict[int, Tensor], device: torch.device) -> None:
        # It stays in the cache, because each piece of each tensor overwrites it.
        self._wide = torch.empty(PIECE, dtype=torch.float64, device="cpu")
        readers = self._readers_of(tensors)
        self._by_lanes = [reader for reader in readers if reader.lanes]
        self._others = [reader for reader in readers if not reader.lanes]
        lanes = [count for reader in self._by_lanes for count in reader.lanes]
        self._of_lanes = torch.empty(sum(lanes), dtype=torch.float32, device="cpu")
        self._outputs = self._of_lanes.split([sum(reader.lanes) for reader in self._by_lanes])
        self._first_lanes = np.cumsum([0, *lanes[:-1]])
        places = [place for r in (*self._by_lanes, *self._others) for place in r.places]
        self.index = torch.tensor(places, device="cpu").to(device, non_blocking=True)
        self._norms = torch.empty(len(places), dtype=torch.float64, device="cpu")
        sizes = np.array([tensors[place].numel() for place in places[: len(lanes)]])
        self._least = LEAST_MEAN_SQUARE * sizes

    @torch.no_grad()
    def norms(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Returns the norms in the order of `index`. float64."""
        squares = self._norms.numpy()
        for reader, output in zip(self._by_lanes, self._outputs, strict=True):
            reader.read(tensors, output)
        end = len(self._least)
        if end:
            of_lanes = self._of_lanes.numpy()
            if len(of_lanes) == end:
                np.multiply(of_lanes, of_lanes, out=squares[:end], dtype=np.float64)
            else:
                of_lanes = np.multiply(of_lanes, of_lanes, dtype=np.float64)
                np.add.reduceat(of_lanes, self._first_lanes, out=squares[:end])
            self._read_extremes_again(tensors, squares[:end])
        for single in self._others:
            begin, end = end, end + len(single.places)
            squares[begin:end] = single.squares(tensors)
        np.sqrt(squares, out=squares)
        return self._norms

    def _read_extremes_again(self, tensors: Sequence[Tensor | None], squares: np.ndarray) -> None:
        """Reads tensors in float64 whose squares may have overflowed or been flushed to zero."""
        is_accurate = (squares >= self._least) & (squares < np.inf)
        if np.logical_and.reduce(is_accurate):
            return
        end = 0
        for reader in self._by_lanes:
            begin, end = end, end + len(reader.places)
            if not is_accurate[begin:end].all():
                squares[begin:end] = reader.squares(tensors)

    def _readers_of(self, tensors: dict[int, Tensor]) -> list[Joined | InPlace | Single]:
        """Returns readers of all tensors: of batches, of one shape or not, and of single ones."""
        readers: list[Joined | InPlace | Single] = []
        by_shape: dict[object, list[int]] = {}
        for place, tensor in tensors.items():
            is_plain = tensor.layout == torch.strided and tensor.dtype in PLAIN_DTYPES
            if is_plain and tensor.numel() <= _SMALL:
                by_shape.setdefault((tensor.dtype, tensor.shape), []).append(place)
            else:
                readers.append(self._reader_of(place, tensor))
        rest: dict[tuple[torch.dtype, int], list[int]] = {}
        for places in by_shape.values():
            first = tensors[places[0]]
            size = first.numel()
            length = lane_length(size) if first.dtype != torch.float64 else 0
            if len(places) < _ALIKE:
                rest.setdefault((first.dtype, length), []).extend(places)
            else:
                if size <= MOST_IN_LANE and first.dtype != torch.float64:
                    length = size
                readers += self._batches(places, tensors, length)
        for (_, length), places in rest.items():
            readers += self._batches(places, tensors, length)
        return readers

    def _batches(
        self, places: list[int], tensors: dict[int, Tensor], length: int
    ) -> Iterator[Joined]:
        """Cuts a list of small tensors into batches of at most `PIECE` elements."""
        batch: list[int] = []
        room = PIECE
        for place in places:
            size = tensors[place].numel()
            if size > room:
                yield Joined(batch, tensors, length, self._wide)
                batch, room = [], PIECE
            batch.append(place)
            room -= size
        yield Joined(batch, tensors, length, self._wide)

    def _reader_of(self, place: int, tensor: Tensor) -> InPlace | Single:
        is_float32 = tensor.layout == torch.strided and tensor.dtype == torch.float32
        if is_float32 and tensor.numel() <= _MEDIUM and in_order_of_memory(tensor).is_contiguous():
            length = lane_length(tensor.numel())
            if length:
                return InPlace(place, tensor, length, self._wide)
        return Single(place, self._wide)
