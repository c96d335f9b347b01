"""What every way of sharding answers: which elements of a tensor are counted by this rank."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


class NotServed(Exception):
    """A part that cannot be told, for a reason that is the same on every rank."""


def why_kind_not_known(tensor: Tensor) -> str | None:
    """Names a subclass of tensor, whose bytes need not be its values: libraries quantise so."""
    if type(tensor) in (Tensor, nn.Parameter):
        return None
    return f"{type(tensor).__name__} is a kind of tensor that is not known here"


class ShardAdapter(Protocol):
    """Knows one way of sharding.

    Every element of a tensor is counted by exactly one rank. All answers but the parts themselves
    are the same on every rank.
    """

    mode: str

    def serves(self, parameter: Tensor) -> bool:
        """Whether the parameter is sharded in this way."""
        ...

    def why_not_served(self, parameter: Tensor) -> str | None:
        """Why this parameter cannot be shown although it is sharded in this way, or `None`."""
        ...

    def whole(self, parameter: Tensor) -> Tensor | None:
        """The whole tensor if every rank holds it, `None` if it is sharded."""
        ...

    def global_count(self, parameter: Tensor) -> int:
        """Elements of the whole tensor."""
        ...

    def parameter_part(self, parameter: Tensor) -> Tensor | None:
        """The elements of the parameter this rank counts, detached and not copied, or `None`.

        Raises:
            NotServed: They cannot be told.
        """
        ...

    def gradient_part(self, parameter: Tensor) -> Tensor | None:
        """The same of its gradient; `None` also where there is no gradient.

        A gradient is given as it is stored, multiplied by the loss scale where there is one.

        Raises:
            NotServed: They cannot be told.
        """
        ...


@dataclass(frozen=True)
class Row:
    """One parameter of the table.

    Attributes:
        name: As the model's author wrote it.
        parameter: The parameter as it is registered on this rank, whole or not.
        global_count: Elements of the whole tensor.
        adapter: What knows this rank's part of it.
    """

    name: str
    parameter: Tensor
    global_count: int
    adapter: ShardAdapter
