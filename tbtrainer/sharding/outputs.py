"""Which elements of a module's output this rank counts.

Each rank runs the model on batches of its own, so the elements of all ranks count. Ranks that are
given the same batch hold the same output, or parts of it, and one of them counts each element.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from tbtrainer.sharding.adapter import UnsupportedTensor, unsupported_tensor_type
from tbtrainer.sharding.dtensor import is_dtensor, local_part
from tbtrainer.sharding.ranks import ModelParallelSizes
from tbtrainer.sharding.world import own_rank


def counts_plain_outputs(sizes: ModelParallelSizes) -> bool:
    """Returns whether this rank counts the outputs that are whole on it.

    Of the ranks of one tensor-parallel group, which are next to each other, the first one does.
    Ranks that divide the sequences between them hold different outputs, and all of them do.
    """
    return own_rank() % sizes.tensor == 0


def output_part(output: Tensor, counts_plain: bool) -> Tensor | None:
    """Returns the elements that this rank counts of a module's output or of its gradient.

    Args:
        output: A tensor, whole on this rank or a `DTensor`.
        counts_plain: See `counts_plain_outputs`.

    Returns:
        The part, detached and not copied; `None` if other ranks count all elements.

    Raises:
        UnsupportedTensor: The part cannot be determined.
    """
    if is_dtensor(output):
        local = local_part(output)
        reason = None if local is None else unsupported_tensor_type(local)
    else:
        local = output.detach() if counts_plain else None
        reason = unsupported_tensor_type(output)
    if reason is not None:
        raise UnsupportedTensor(reason)
    return local


def first_floating(output: Any) -> Tensor | None:
    """Returns the first floating-point tensor of what a module returned, or `None`.

    Args:
        output: A tensor, or tuples, lists and mappings of tensors in any depth.
    """
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    inner: Iterable[Any] = ()
    if isinstance(output, Mapping):
        inner = output.values()
    elif isinstance(output, tuple | list):
        inner = output
    return next((t for t in map(first_floating, inner) if t is not None), None)
