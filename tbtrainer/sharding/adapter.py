"""What every way of sharding answers: which elements of a tensor are counted by this rank."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


class UnsupportedTensor(Exception):
    """Raised when this rank's part of a tensor cannot be determined.

    The reason is the same on every rank.
    """


def unsupported_tensor_type(tensor: Tensor) -> str | None:
    """Returns why a tensor subclass is unsupported, or `None` for a plain tensor or parameter.

    The storage of a subclass may hold packed, quantised data.
    """
    if type(tensor) in (Tensor, nn.Parameter):
        return None
    return f"the tensor type {type(tensor).__name__} is not supported"


class ShardAdapter(Protocol):
    """Knows one way of sharding.

    Every element of a tensor is counted by exactly one rank. All answers but the parts themselves
    are the same on every rank.

    Attributes:
        mode: Name of the way of sharding.
        is_sharded: Whether ranks hold different parts, of parameters or of gradients.
        gradient_problem: Why no gradient can be read, or `None`.
        copies_gradients: Whether gradients may be on their way to main memory, in copies that
            nothing has waited for, when they are read.
    """

    mode: str
    is_sharded: bool
    gradient_problem: str | None
    copies_gradients: bool

    def supports(self, parameter: Tensor) -> bool:
        """Whether the parameter is sharded in this way."""
        ...

    def unsupported_reason(self, parameter: Tensor) -> str | None:
        """Why a parameter that is sharded in this way cannot be read, or `None`."""
        ...

    def whole(self, parameter: Tensor) -> Tensor | None:
        """The whole parameter if every rank holds it, `None` if it is sharded."""
        ...

    def global_count(self, parameter: Tensor) -> int:
        """Elements of the whole parameter."""
        ...

    def part(self, parameter: Tensor, tensor: Tensor) -> Tensor | None:
        """The elements this rank counts of a tensor that is divided like its parameter.

        Args:
            parameter: The parameter as it is registered on this rank.
            tensor: The parameter itself for its values, or what this rank holds of its gradient,
                of an optimizer state, of a copy.

        Returns:
            The part, detached and not copied; `None` where other ranks count all of it.

        Raises:
            UnsupportedTensor: The part cannot be determined.
        """
        ...

    def gradient_part(self, parameter: Tensor) -> Tensor | None:
        """The elements this rank counts of the parameter's gradient.

        The gradient is given as it is stored, multiplied by the loss scale where there is one.
        `None` also where there is no gradient.

        Raises:
            UnsupportedTensor: The part cannot be determined.
        """
        ...


@dataclass(frozen=True)
class Row:
    """One tensor of a table.

    Attributes:
        name: As the model's author wrote it.
        parameter: The parameter as it is registered on this rank, whole or not.
        global_count: Elements of the whole tensor; `None` if not known beforehand.
        adapter: What knows this rank's part of it.
    """

    name: str
    parameter: Tensor
    global_count: int | None
    adapter: ShardAdapter


@dataclass(frozen=True)
class RefusedParameter:
    """A parameter that is in no row of the table, on any rank.

    Attributes:
        name: As the model's author wrote it.
        parameter: The parameter as it is registered on this rank.
        reason: Why it cannot be read.
    """

    name: str
    parameter: Tensor
    reason: str
