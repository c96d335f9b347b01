"""How the ranks agree on which observers none of them has to do without."""

import hashlib
from collections.abc import Sequence

import torch
import torch.distributed as dist

from tbtrainer.sharding.agreement import collective_device


def failed_on_any_rank(names: Sequence[str], failed: Sequence[bool], common: int) -> list[bool]:
    """Returns which items failed on any rank: the same answer on every rank.

    If one rank went on without an item that communicates, the others would hang in its next
    collective. Two small collectives with several processes, none with one.

    Args:
        names: One per item. The items after the first `common` may differ between ranks; then each
            rank decides about them alone.
        failed: Whether an item failed on this rank, one per item.
        common: How many items, from the first on, are the same on every rank.

    Returns:
        One answer per item.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return list(failed)
    device = collective_device()
    digest = int.from_bytes(hashlib.sha256(repr(list(names)).encode()).digest()[:6], "big")
    ends = torch.tensor([digest, -digest], dtype=torch.int64, device=device)
    dist.all_reduce(ends, dist.ReduceOp.MAX)
    greatest, negative_least = ends.tolist()
    agreed = len(names) if greatest == -negative_least else common
    flags = torch.tensor([*failed[:agreed], False], dtype=torch.int64, device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return [bool(flag) for flag in flags.tolist()[:agreed]] + list(failed[agreed:])
