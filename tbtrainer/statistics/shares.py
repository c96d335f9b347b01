"""Divides tensors among the readers that read them, and into parts of bounded memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tbtrainer.statistics.devices import statistics_device
from tbtrainer.statistics.readers.choice import Backend, reader_of
from tbtrainer.statistics.readers.reader import Reader

# Rows are read some at a time where int64 counters of all of them would take too much memory. A
# part has at most this share of the rows, so that its counters take little beside those of all.
_MOST_PARTS = 32
# The fewest rows of a part. Their int64 counters take 1 MiB.
_LEAST_ROWS_AT_A_TIME = 64


@dataclass(frozen=True)
class Share:
    """The tensors that one reader reads on one device.

    Attributes:
        reader: The reader.
        device: The device of the tensors.
        rows: The row of each tensor.
        tensors: The tensors, none of them empty.
    """

    reader: Reader
    device: torch.device
    rows: list[int]
    tensors: list[Tensor]

    def compacted(self) -> tuple[list[int], "Share"]:
        """Returns the rows that occur, and the share with its rows numbered from 0 without gaps."""
        own_rows = sorted(set(self.rows))
        position = {row: at for at, row in enumerate(own_rows)}
        return own_rows, replace(self, rows=[position[row] for row in self.rows])

    def current_reader(self, backend: Backend) -> Reader | None:
        """Returns the reader of the tensors by now, or `None` if they have different ones.

        It is not `reader` any more after a kernel of that has failed.
        """
        readers = {reader.name: reader for reader in (reader_of(t, backend) for t in self.tensors)}
        return next(iter(readers.values())) if len(readers) == 1 else None

    def counts_in(self, counters: Tensor) -> bool:
        """Returns whether the reader can add to these counters itself."""
        on_device = counters.device == statistics_device(self.device)
        return on_device and counters.dtype in self.reader.counter_dtypes

    def parts(self, most_rows: int) -> Iterator["Share"]:
        """Cuts the share into shares of at most `most_rows` rows each."""
        places: dict[int, list[int]] = {}
        for place, row in enumerate(self.rows):
            places.setdefault(row, []).append(place)
        order = sorted(places)
        for begin in range(0, len(order), most_rows):
            chosen = [place for row in order[begin : begin + most_rows] for place in places[row]]
            yield replace(
                self,
                rows=[self.rows[place] for place in chosen],
                tensors=[self.tensors[place] for place in chosen],
            )


def shares_of(
    tensors: Sequence[Tensor | None], rows: Sequence[int] | None, backend: Backend
) -> list[Share]:
    """Returns the tensors by device and reader, without `None` and empty tensors.

    Args:
        tensors: Measurable tensors of any shape and strides, on any devices.
        rows: The row of each tensor; `None`: one row per tensor.
        backend: Which reader reads the tensors; see `reader_of`.
    """
    shares: dict[tuple[torch.device, str], Share] = {}
    for row, tensor in zip(range(len(tensors)) if rows is None else rows, tensors, strict=True):
        if tensor is None or tensor.numel() == 0:
            continue
        reader = reader_of(tensor, backend)
        key = tensor.device, reader.name
        if key not in shares:
            shares[key] = Share(reader, tensor.device, [], [])
        shares[key].rows.append(row)
        shares[key].tensors.append(tensor)
    return list(shares.values())


def in_parts(shares: Sequence[Share], row_count: int) -> Iterator[tuple[list[int], Share]]:
    """Cuts shares into parts, and yields the rows of each part and the part; see `compacted`."""
    most_rows = max(_LEAST_ROWS_AT_A_TIME, -(-row_count // _MOST_PARTS))
    for share in shares:
        for part in share.parts(most_rows):
            yield part.compacted()
