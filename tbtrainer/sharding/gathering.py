"""Brings bytes of every rank to world rank zero, and sums of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from tbtrainer.sharding.agreement import collective_device
from tbtrainer.sharding.world import own_rank, reduce_max, world_size


@dataclass(frozen=True)
class Gathered:
    """What world rank zero has received.

    Attributes:
        packets: The bytes of each rank, by rank; empty on other ranks.
        sums: The sum over all ranks of each group of numbers, float64, shape (numbers,), on the
            CPU. `None` if the ranks' numbers of a group do not mean the same. Undefined on other
            ranks.
    """

    packets: list[bytes]
    sums: list[Tensor | None]


def gather_on_rank_zero(
    packet: bytes, groups: Sequence[Tensor], meanings: Sequence[int]
) -> Gathered:
    """Gathers bytes, and adds up groups of numbers, of all ranks.

    With several ranks this is at most four collectives. The first one says how much each rank has,
    and so which of the others follow. The second one says whether every rank has the memory for it:
    a rank that failed between two collectives would let the others wait.

    Args:
        packet: This rank's bytes; their number may differ between ranks.
        groups: This rank's numbers, each float64, shape (numbers,), on the CPU. As many groups as
            on every other rank. A rank may have no numbers in a group.
        meanings: 48 bits for each group that say what its numbers are. The numbers of a group are
            added if they are equal on all ranks that have some.

    Raises:
        MemoryError: On all ranks, if one has not enough memory for what the ranks have together.
    """
    if world_size() == 1:
        return Gathered([packet], list(groups))
    device = collective_device()
    failed = torch.zeros(1, dtype=torch.int64, device=device)
    own = [len(packet)]
    for numbers, meaning in zip(groups, meanings, strict=True):
        own += [len(numbers), meaning]
    everyone = _of_all_ranks(own, device)
    lengths = [_agreed_length(everyone, group) for group in range(len(groups))]
    sizes = [rank[0] for rank in everyone]
    buffers, error = None, None
    try:
        buffers = _buffers(packet, sizes, groups, lengths, device)
    except Exception as caught:
        error = caught
        failed.fill_(1)
    reduce_max(failed)
    if buffers is None or failed.item():
        raise MemoryError(
            f"a rank has no memory for {sum(sizes):,} bytes and {sum(map(_size, lengths)):,} "
            "numbers of all ranks"
        ) from error
    if len(buffers.numbers) > 0:
        dist.reduce(buffers.numbers, 0)
    if len(buffers.packet) > 0:
        dist.gather(buffers.packet, buffers.received, 0)
    summed = buffers.numbers.cpu().split([_size(length) for length in lengths])
    sums = [None if length is None else s for length, s in zip(lengths, summed, strict=True)]
    received = zip(buffers.received or (), sizes, strict=buffers.received is not None)
    return Gathered([row[:size].cpu().numpy().tobytes() for row, size in received], sums)


def _of_all_ranks(own: list[int], device: torch.device) -> list[list[int]]:
    """Returns the numbers of every rank, by rank."""
    sent = torch.tensor(own, dtype=torch.int64, device=device)
    everyone = torch.zeros(world_size(), len(own), dtype=torch.int64, device=device)
    dist.all_gather(list(everyone.unbind(0)), sent)
    found: list[list[int]] = everyone.tolist()
    return found


def _agreed_length(everyone: list[list[int]], group: int) -> int | None:
    """Returns how many numbers a group has; `None` if the ranks' numbers are different ones."""
    at = 1 + 2 * group
    kinds = {(rank[at], rank[at + 1]) for rank in everyone if rank[at] > 0}
    if len(kinds) > 1:
        return None
    return max((length for length, _ in kinds), default=0)


def _size(length: int | None) -> int:
    return length or 0


@dataclass(frozen=True)
class _Buffers:
    """What a rank sends and receives, on the device of the collectives.

    Attributes:
        numbers: Those of the groups that are added, one group after the other; 0 for a group of
            which this rank has none. float64, as many on every rank.
        packet: This rank's bytes, filled up to the longest packet of all ranks. uint8.
        received: Where world rank zero receives the packets, one per rank; `None` on other ranks.
    """

    numbers: Tensor
    packet: Tensor
    received: list[Tensor] | None


def _buffers(
    packet: bytes,
    sizes: Sequence[int],
    groups: Sequence[Tensor],
    lengths: Sequence[int | None],
    device: torch.device,
) -> _Buffers:
    """Returns buffers that hold what this rank sends."""
    numbers = torch.zeros(sum(map(_size, lengths)), dtype=torch.float64, device=device)
    for part, own in zip(numbers.split([*map(_size, lengths)]), groups, strict=True):
        if len(own) == len(part):
            part.copy_(own)
    sent = torch.zeros(max(sizes), dtype=torch.uint8, device=device)
    if packet:
        sent[: len(packet)] = torch.frombuffer(bytearray(packet), dtype=torch.uint8).to(device)
    received = [torch.zeros_like(sent) for _ in sizes] if own_rank() == 0 else None
    return _Buffers(numbers, sent, received)
