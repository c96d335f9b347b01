"""All ranks of a training, and small collectives over them."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from tbtrainer.sharding.agreement import collective_device


def world_size() -> int:
    """Returns the number of ranks; 1 without `torch.distributed`."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return int(dist.get_world_size())


def own_rank() -> int:
    """Returns this process's rank; 0 without `torch.distributed`."""
    return int(dist.get_rank()) if world_size() > 1 else 0


def reduce_max(values: Tensor) -> None:
    """Replaces a tensor by its maximum over all ranks, in place, in one MAX collective.

    It allocates no memory, so a rank without memory can take part.

    Args:
        values: A contiguous tensor without NaN whose shape is equal on every rank.
    """
    dist.all_reduce(values, dist.ReduceOp.MAX)


def true_on_any_rank(flags: Sequence[bool]) -> list[bool]:
    """Returns for each of some flags whether it is true on any rank.

    With several ranks this is one collective, and the host waits for it.

    Args:
        flags: As many on every rank.
    """
    if world_size() == 1:
        return list(flags)
    sent = torch.tensor(list(flags), dtype=torch.int64, device=collective_device())
    reduce_max(sent)
    return [bool(flag) for flag in sent.tolist()]
