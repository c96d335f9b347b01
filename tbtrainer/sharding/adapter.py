"""The protocol of the sharding modes, and the rows of a parameter table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


class UnsupportedTensor(Exception):
    """Raised when this rank's part of a tensor cannot be determined, for a reason of the mode.

    Every rank raises it for the same reason.
    """


def unsupported_tensor_type(tensor: Tensor) -> str | None:
    """Returns why a tensor subclass is unsupported, or `None` for a plain tensor or parameter.

    The memory of a subclass may hold packed or quantised data.
    """
    if type(tensor) in (Tensor, nn.Parameter):
        return None
    return f"the tensor type {type(tensor).__name__} is not supported"


class ShardAdapter(Protocol):
    """Knows one sharding mode: which elements of a tensor this rank counts.

    Every element of a tensor is counted by exactly one rank. Only the parts differ between ranks;
    all other results are equal on every rank.

    Attributes:
        mode: Name of the sharding mode.
        is_sharded: Whether ranks hold different parts of parameters or of gradients.
        gradient_problem: Why no gradient can be read, or `None`.
        copies_gradients: Whether a gradient in main memory may be the target of a copy from an
            accelerator that is not complete yet.
    """

    mode: str
    is_sharded: bool
    gradient_problem: str | None
    copies_gradients: bool

    def supports(self, parameter: Tensor) -> bool:
        """Returns whether the parameter is sharded in this mode."""
        ...

    def unsupported_reason(self, parameter: Tensor) -> str | None:
        """Returns why a parameter of this mode cannot be read, or `None` if it can."""
        ...

    def whole(self, parameter: Tensor) -> Tensor | None:
        """Returns the whole parameter if every rank holds it, `None` if it is sharded."""
        ...

    def global_count(self, parameter: Tensor) -> int:
        """Returns the number of elements of the whole parameter."""
        ...

    def part(self, parameter: Tensor, tensor: Tensor) -> Tensor | None:
        """Returns the elements that this rank counts of a tensor sharded like its parameter.

        Args:
            parameter: The parameter as it is registered on this rank.
            tensor: The parameter itself, or what this rank holds of its gradient or of a copy of
                it.

        Returns:
            The part, detached and not copied; `None` if other ranks count all elements.

        Raises:
            UnsupportedTensor: The part cannot be determined.
        """
        ...

    def gradient_part(self, parameter: Tensor) -> Tensor | None:
        """Returns the elements that this rank counts of the parameter's gradient.

        They are still multiplied by the loss scale, if there is one.

        Returns:
            The part; `None` if other ranks count all elements, or if there is no gradient.

        Raises:
            UnsupportedTensor: The part cannot be determined.
        """
        ...

    def optimizer_states(self, parameter: Tensor, optimizer: Any) -> Mapping[str, Any]:
        """Returns what the optimizer holds for a parameter on this rank, by name of the state.

        Args:
            parameter: The parameter as it is registered on this rank.
            optimizer: The optimizer without accelerate's wrapper.

        Returns:
            Tensors as they are stored, and what else the optimizer holds; empty before the first
            step, and if this rank holds nothing.

        Raises:
            UnsupportedTensor: It is not known where the states are.
        """
        ...

    def state_part(self, parameter: Tensor, state: Tensor) -> Tensor | None:
        """Returns the elements that this rank counts of one of the parameter's optimizer states.

        Args:
            parameter: The parameter as it is registered on this rank.
            state: A tensor that `optimizer_states` returned.

        Returns:
            The part; `None` if other ranks count all elements.

        Raises:
            UnsupportedTensor: The state is not divided like the parameter.
        """
        ...


@dataclass(frozen=True)
class Row:
    """One tensor of a table.

    Attributes:
        name: Name of the parameter without the segments of wrappers; see `clean_names`.
        parameter: The parameter as it is registered on this rank, whole or sharded.
        global_count: Elements of the whole tensor; `None` if not known beforehand.
        adapter: The adapter of the parameter's sharding mode.
    """

    name: str
    parameter: Tensor
    global_count: int | None
    adapter: ShardAdapter


@dataclass(frozen=True)
class RefusedParameter:
    """A parameter that is in no row of the table, on any rank.

    Attributes:
        name: Name of the parameter without the segments of wrappers; see `clean_names`.
        parameter: The parameter as it is registered on this rank.
        reason: Why it cannot be read.
    """

    name: str
    parameter: Tensor
    reason: str
