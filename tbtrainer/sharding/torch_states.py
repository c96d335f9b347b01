"""What an optimizer of PyTorch holds for a parameter."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tbtrainer.sharding.adapter import UnsupportedTensor


def torch_states(optimizer: Any, parameter: Tensor) -> Mapping[str, Any]:
    """Returns the states of a parameter by name; empty if the optimizer has none for it.

    Args:
        optimizer: A `torch.optim.Optimizer`, or anything else with a `state` by parameter.
        parameter: As the optimizer has it in its groups.
    """
    state = getattr(optimizer, "state", None)
    # Not by index: the state is a `defaultdict`, which an index would add to.
    found = state.get(parameter) if isinstance(state, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def check_same_shape(parameter: Tensor, state: Tensor) -> None:
    """Raises an error if a state has not one element for each element of its parameter.

    Raises:
        UnsupportedTensor: The shapes differ.
    """
    if state.shape == parameter.shape:
        return
    raise UnsupportedTensor(
        "they have another shape than the parameter, as where an optimizer factors or projects them"
    )
