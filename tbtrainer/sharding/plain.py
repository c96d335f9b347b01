"""Tensors that every rank holds whole: with one process, under DDP, and some in other modes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tbtrainer.sharding.adapter import unsupported_tensor_type
from tbtrainer.sharding.torch_states import check_same_shape, torch_states

# Attributes by which libraries mark a plain tensor that is a part of a parameter. The first is from
# Megatron and DeepSpeed's AutoTP, the second from fairscale and torch_xla.
_PART_MARKS = ("tensor_model_parallel", "_is_sharded")


class PlainAdapter:
    """Whole tensors: world rank zero counts every tensor, and other ranks count none.

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
        """Returns True for every parameter, so this adapter has to be the last of the list."""
        return True

    def unsupported_reason(self, parameter: Tensor) -> str | None:
        """Refuses parameters that a library marks as parts, and unknown tensor subclasses."""
        for mark in _PART_MARKS:
            if getattr(parameter, mark, False):
                return f"they are sharded in an unknown way (they have the attribute `{mark}`)"
        return unsupported_tensor_type(parameter)

    def whole(self, parameter: Tensor) -> Tensor:
        """Returns the parameter, which has to be equal on all ranks."""
        return parameter.detach()

    def global_count(self, parameter: Tensor) -> int:
        """Returns the number of elements of the parameter."""
        return parameter.numel()

    def part(self, parameter: Tensor, tensor: Tensor) -> Tensor | None:
        """Returns the tensor on world rank zero, `None` on other ranks."""
        return tensor.detach() if self.counts else None

    def gradient_part(self, parameter: Tensor) -> Tensor | None:
        """Returns the gradient on world rank zero; `None` without one, and on other ranks."""
        gradient = parameter.grad
        return None if gradient is None else self.part(parameter, gradient)

    def optimizer_states(self, parameter: Tensor, optimizer: Any) -> Mapping[str, Any]:
        """Returns the optimizer's states of a parameter, as this rank holds them."""
        return torch_states(optimizer, parameter)

    def state_part(self, parameter: Tensor, state: Tensor) -> Tensor | None:
        """Returns the whole, on world rank zero, of a state of the shape of its parameter."""
        check_same_shape(parameter, state)
        return self.part(parameter, state)
