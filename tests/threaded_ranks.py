"""Ranks that are threads of the test, with collectives that see when ranks do not do the same."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

_Result = TypeVar("_Result")
# A rank that is waited for in vain has left out a collective. It ends a test that hangs.
_WAIT_SECONDS = 60.0


class ThreadedRanks:
    """Runs a function on several ranks at the same time.

    Args:
        ranks: How many.

    Attributes:
        collectives: Names of the collectives that all ranks have reached.
    """

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.collectives: list[str] = []
        self._own = threading.local()
        self._barrier = threading.Barrier(ranks)
        self._sent: list[Any] = [None] * ranks

    def run(self, function: Callable[[int], _Result]) -> list[_Result]:
        """Returns what the function returned on each rank, by rank.

        Raises:
            BaseException: Of the first rank that raised one.
        """
        found: list[Any] = [None] * self.ranks
        errors: list[BaseException] = []

        def run_on(rank: int) -> None:
            self._own.rank = rank
            try:
                found[rank] = function(rank)
            except BaseException as error:
                errors.append(error)
                self._barrier.abort()

        threads = [threading.Thread(target=run_on, args=(rank,)) for rank in range(self.ranks)]
        with self._installed():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]
        return found

    @contextmanager
    def _installed(self) -> Iterator[None]:
        instead = {
            "is_initialized": lambda: True,
            "get_world_size": lambda: self.ranks,
            "get_rank": lambda: self._own.rank,
            "get_backend_config": lambda: "cpu:gloo",
            "all_reduce": self._all_reduce,
            "reduce": self._reduce,
            "all_gather": self._all_gather,
            "gather": self._gather,
        }
        with mock.patch.multiple(dist, **instead):
            yield

    def _met(self, name: str, sent: Tensor) -> list[Tensor]:
        """Waits for all ranks, and returns what they sent."""
        self._sent[self._own.rank] = (name, sent.clone())
        self._barrier.wait(_WAIT_SECONDS)
        everyone = list(self._sent)
        if self._own.rank == 0:
            self.collectives.append(name)
        self._barrier.wait(_WAIT_SECONDS)
        kinds = {(name, tensor.shape, tensor.dtype) for name, tensor in everyone}
        assert len(kinds) == 1, f"the ranks met in different collectives: {kinds}"
        return [tensor for _, tensor in everyone]

    def _all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> None:
        everyone = torch.stack(self._met(f"all_reduce {op}", tensor))
        tensor.copy_(everyone.amax(0) if op == dist.ReduceOp.MAX else everyone.sum(0))

    def _reduce(self, tensor: Tensor, dst: int) -> None:
        everyone = torch.stack(self._met("reduce", tensor))
        # Undefined on other ranks.
        tensor.copy_(everyone.sum(0) if self._own.rank == dst else torch.full_like(tensor, -1))

    def _all_gather(self, received: list[Tensor], tensor: Tensor) -> None:
        for place, sent in zip(received, self._met("all_gather", tensor), strict=True):
            place.copy_(sent)

    def _gather(self, tensor: Tensor, received: list[Tensor] | None, dst: int) -> None:
        everyone = self._met("gather", tensor)
        assert (received is not None) == (self._own.rank == dst)
        for place, sent in zip(received or [], everyone, strict=received is not None):
            place.copy_(sent)
