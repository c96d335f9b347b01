"""Brings bytes of every rank to world rank zero, and sums of numbers."""

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
        totals: The sum of the numbers of all ranks, float64, shape (numbers,), on the CPU; on other
            ranks it is undefined. `None` if the ranks' numbers do not mean the same.
    """

    packets: list[bytes]
    totals: Tensor | None


def gather_on_rank_zero(packet: bytes, totals: Tensor, digest: int) -> Gathered:
    """Gathers bytes, and adds up numbers, of all ranks.

    With several ranks this is at most three collectives. The first one says how much each rank has,
    and so which of the others follow.

    Args:
        packet: This rank's bytes; their number may differ between ranks.
        totals: This rank's numbers, float64, shape (numbers,), on the CPU. A rank may have none.
        digest: 48 bits that say what the numbers mean. Numbers are added if all ranks that have
            some have the same digest.
    """
    if world_size() == 1:
        return Gathered([packet], totals)
    device = collective_device()
    sizes = _of_all_ranks([len(packet), len(totals), digest], device)
    meanings = {(numbers, digest) for _, numbers, digest in sizes if numbers}
    summed: Tensor | None = totals
    if len(meanings) == 1:
        ((numbers, _),) = meanings
        sent = torch.zeros(numbers, dtype=torch.float64, device=device)
        sent[: len(totals)] = totals.to(device)
        dist.reduce(sent, 0)
        summed = sent.cpu()
    elif meanings:
        summed = None
    return Gathered(_packets(packet, [size for size, _, _ in sizes], device), summed)


def _of_all_ranks(own: list[int], device: torch.device) -> list[list[int]]:
    """Returns the numbers of every rank, by rank."""
    sent = torch.tensor(own, dtype=torch.int64, device=device)
    everyone = torch.zeros(world_size(), len(own), dtype=torch.int64, device=device)
    dist.all_gather(list(everyone.unbind(0)), sent)
    sizes: list[list[int]] = everyone.tolist()
    return sizes


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
