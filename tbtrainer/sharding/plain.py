"""Whole tensors: one process, DDP, and what other modes leave whole on every rank."""

from torch import Tensor

from tbtrainer.sharding.adapter import why_kind_not_known

# Attributes by which libraries mark a parameter that is only a part of the whole one, though it
# looks like any other: Megatron and DeepSpeed's AutoTP, fairscale and torch_xla.
_PART_MARKS = ("tensor_model_parallel", "_is_sharded")


class PlainAdapter:
    """World rank zero counts every tensor; nobody else counts anything.

    Args:
        is_world_process_zero: Whether this rank is the one.
    """

    mode = "plain"

    def __init__(self, is_world_process_zero: bool) -> None:
        self._counts = is_world_process_zero

    def serves(self, parameter: Tensor) -> bool:
        """Every tensor, so this adapter is asked last."""
        return True

    def why_not_served(self, parameter: Tensor) -> str | None:
        """Names tensors whose bytes are not their values, or which are parts of something."""
        for mark in _PART_MARKS:
            if getattr(parameter, mark, False):
                return f"it is sharded in a way that is not known here (it has `{mark}`)"
        return why_kind_not_known(parameter)

    def whole(self, parameter: Tensor) -> Tensor:
        """The tensor, to be compared over the ranks: whole tensors are the same on all of them."""
        return parameter.detach()

    def global_count(self, parameter: Tensor) -> int:
        """Elements of the tensor."""
        return parameter.numel()

    def parameter_part(self, parameter: Tensor) -> Tensor | None:
        """The tensor on world rank zero, `None` elsewhere."""
        return parameter.detach() if self._counts else None

    def gradient_part(self, parameter: Tensor) -> Tensor | None:
        """The gradient on world rank zero, `None` elsewhere or without one."""
        if not self._counts or parameter.grad is None:
            return None
        return parameter.grad.detach()
