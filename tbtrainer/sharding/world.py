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
    return [number > 0 for number in largest_on_any_rank([float(flag) for flag in flags])]


def largest_on_any_rank(numbers: Sequence[float]) -> list[float]:
    """Returns for each of some numbers the largest one of all ranks.

    With several ranks this is one collective, and the host waits for it.

    Args:
        numbers: As many on every rank, exact in float32, without NaN.
    """
    if world_size() == 1:
        return list(numbers)
    sent = torch.tensor(numbers, dtype=torch.float32, device=collective_device())
    reduce_max(sent)
    largest: list[float] = sent.tolist()
    return largest
