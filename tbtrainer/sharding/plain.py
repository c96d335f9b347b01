"""Whole tensors: one process, DDP, and what other modes leave whole on every rank."""

from torch import Tensor

from tbtrainer.sharding.adapter import unsupported_tensor_type

# Attributes by which libraries mark a parameter that is only a part of the whole one, though it
# looks like any other: Megatron and DeepSpeed's AutoTP, fairscale and torch_xla.
_PART_MARKS = ("tensor_model_parallel", "_is_sharded")


class PlainAdapter:
    """World rank zero counts every tensor; the other ranks count none.

    Args:
        is_world_process_zero: Whether this rank is world rank zero.
    """

    mode = "plain"
    is_sharded = False
    gradient_problem: str | None = None
    copies_gradients = False

    def __init__(self, is_world_process_zero: bool) -> None:
        self.counts = is_world_process_zero

    def supports(self, parameter: Tensor) -> bool:
        """Every parameter, so this adapter is asked last."""
        return True

    def unsupported_reason(self, parameter: Tensor) -> str | None:
        """Names tensors whose bytes are not their values, or which are parts of something."""
        for mark in _PART_MARKS:
            if getattr(parameter, mark, False):
                return f"they are sharded in an unknown way (they have the attribute `{mark}`)"
        return unsupported_tensor_type(parameter)

    def whole(self, parameter: Tensor) -> Tensor:
        """The parameter, to be compared over the ranks: it is equal on all of them."""
        return parameter.detach()

    def global_count(self, parameter: Tensor) -> int:
        """Elements of the parameter."""
        return parameter.numel()

    def part(self, parameter: Tensor, tensor: Tensor) -> Tensor | None:
        """The tensor on world rank zero, `None` elsewhere."""
        return tensor.detach() if self.counts else None

    def gradient_part(self, parameter: Tensor) -> Tensor | None:
        """The gradient on world rank zero, `None` elsewhere or without one."""
        return None if parameter.grad is None else self.part(parameter, parameter.grad)
