"""A few numbers from every rank to every rank, and how many ranks are given the same data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tbtrainer.sharding.agreement import collective_device
from tbtrainer.sharding.world import world_size


class RankNumbers:
    """Gathers a few numbers of every rank.

    The memory is allocated here, so that a rank without memory fails before the collective and not
    instead of it.

    Args:
        count: How many numbers each rank sends. The same on every rank.
    """

    def __init__(self, count: int) -> None:
        self._mine: Tensor | None = None
        ranks = world_size()
        if ranks > 1:
            device = collective_device()
            self._mine = torch.zeros(count, dtype=torch.float32, device=device)
            self._everyone = torch.zeros(ranks, count, dtype=torch.float32, device=device)

    def gathered(self, numbers: Sequence[float]) -> list[list[float]]:
        """Returns the numbers of all ranks, in the order of the ranks.

        With several processes this is a collective, and it waits for the device.

        Args:
            numbers: This rank's own. They are rounded to float32.
        """
        if self._mine is None:
            return [list(numbers)]
        self._mine.copy_(torch.tensor(numbers, dtype=torch.float32, device="cpu"))
        dist.all_gather(list(self._everyone.unbind(0)), self._mine)
        gathered: list[list[float]] = self._everyone.tolist()
        return gathered


@dataclass(frozen=True)
class ModelParallelSizes:
    """How many ranks share the work on one sample.

    Attributes:
        tensor: Ranks that divide each layer. All of them are given the same batch.
        context: Ranks that divide each sequence inside the model. All of them are given the same
            batch.
        sequence: Ranks of DeepSpeed's sequence parallelism. Each is given a part of every sequence.
    """

    tensor: int = 1
    context: int = 1
    sequence: int = 1

    @classmethod
    def of(cls, accelerator: Any, model: Any) -> "ModelParallelSizes":
        """Reads the sizes where `Trainer.get_tp_size` and its siblings do in transformers 5.24.

        Args:
            accelerator: Of the trainer. `parallelism_config` was seen in accelerate 1.10 to 1.15.
            model: As it was given to the trainer. With a `tp_plan` it has `_tp_size`.
        """
        config = getattr(accelerator, "parallelism_config", None)
        plugin = getattr(getattr(accelerator, "state", None), "deepspeed_plugin", None)
        deepspeed = getattr(plugin, "deepspeed_config", None) or {}
        return cls(
            tensor=_size(
                getattr(model, "_tp_size", None),
                deepspeed.get("tensor_parallel", {}).get("autotp_size"),
                getattr(config, "tp_size", None),
            ),
            context=_size(getattr(config, "cp_size", None)),
            sequence=_size(getattr(config, "sp_size", None)),
        )

    @property
    def ranks_per_token(self) -> int:
        """How often a token is counted if the tokens of all ranks are added."""
        return self.tensor * self.context

    @property
    def ranks_per_sample(self) -> int:
        """How often a sample is counted if the samples of all ranks are added."""
        return self.tensor * self.context * self.sequence


def _size(*known: Any) -> int:
    """Returns the first that is a size."""
    return next((size for size in known if isinstance(size, int) and size > 0), 1)
