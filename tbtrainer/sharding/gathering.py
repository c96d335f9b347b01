"""Brings bytes of every rank to world rank zero, and sums of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from tbtrainer.sharding.agreement import collective_device
from tbtrainer.sharding.world import own_rank, world_size


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

    With several ranks this is at most three collectives. The first one says how much each rank has,
    and so which of the others follow.

    Args:
        packet: This rank's bytes; their number may differ between ranks.
        groups: This rank's numbers, each float64, shape (numbers,), on the CPU. As many groups as
            on every other rank. A rank may have no numbers in a group.
        meanings: 48 bits for each group that say what its numbers are. The numbers of a group are
            added if they are equal on all ranks that have some.
    """
    if world_size() == 1:
        return Gathered([packet], list(groups))
    device = collective_device()
    own = [len(packet)]
    for numbers, meaning in zip(groups, meanings, strict=True):
        own += [len(numbers), meaning]
    everyone = _of_all_ranks(own, device)
    lengths = [_agreed_length(everyone, group) for group in range(len(groups))]
    sums = _summed(groups, lengths, device)
    return Gathered(_packets(packet, [rank[0] for rank in everyone], device), sums)


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


def _summed(
    groups: Sequence[Tensor], lengths: Sequence[int | None], device: torch.device
) -> list[Tensor | None]:
    """Adds up the groups that mean the same on all ranks, in one collective if there are any."""
    sent = torch.zeros(sum(length or 0 for length in lengths), dtype=torch.float64, device=device)
    parts = sent.split([length or 0 for length in lengths])
    for part, numbers in zip(parts, groups, strict=True):
        if len(numbers) == len(part):
            part.copy_(numbers)
    if len(sent) > 0:
        dist.reduce(sent, 0)
    summed = sent.cpu().split([length or 0 for length in lengths])
    return [None if length is None else part for part, length in zip(summed, lengths, strict=True)]


def _packets(packet: bytes, sizes: list[int], device: torch.device) -> list[bytes]:
    """Gathers the bytes of all ranks on world rank zero, each filled up to the longest."""
    longest = max(sizes)
    if longest == 0:
        return [b""] * len(sizes) if own_rank() == 0 else []
    sent = torch.zeros(longest, dtype=torch.uint8, device=device)
    if packet:
        sent[: len(packet)] = torch.frombuffer(bytearray(packet), dtype=torch.uint8).to(device)
    if own_rank() != 0:
        dist.gather(sent, None, 0)
        return []
    received = [torch.zeros_like(sent) for _ in sizes]
    dist.gather(sent, received, 0)
    return [r[:size].cpu().numpy().tobytes() for r, size in zip(received, sizes, strict=True)]
