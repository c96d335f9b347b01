"""Cuts tensors of any strides into pieces, without copying the whole tensor."""

from collections.abc import Iterator

from torch import Tensor


def in_order_of_memory(tensor: Tensor) -> Tensor:
    """Returns a view with the dimensions ordered by stride.

    The view of a transposed or channels-last tensor is contiguous.
    """
    return tensor.permute(order_of_memory(tensor))


def order_of_memory(tensor: Tensor) -> list[int]:
    """Returns the dimensions of a tensor ordered by stride, the largest stride first."""
    return sorted(range(tensor.dim()), key=tensor.stride, reverse=True)


def pieces(tensor: Tensor, most_elements: int, most_copied: int) -> Iterator[Tensor]:
    """Cuts a tensor into views that together hold every element once.

    Args:
        tensor: A strided tensor of any shape and strides.
        most_elements: The most elements of a contiguous piece.
        most_copied: The most elements of a piece that is not contiguous.

    Yields:
        Views. `reshape(-1)` flattens them; it copies the pieces that are not contiguous.
    """
    if tensor.dim() == 0:
        yield tensor
        return
    ordered = in_order_of_memory(tensor)
    if ordered.is_contiguous():
        ordered = ordered.view(-1)
    else:
        most_elements = most_copied
    length = ordered.shape[0]
    step = most_elements * length // max(ordered.numel(), 1)
    if step:
        for begin in range(0, length, step):
            yield ordered.narrow(0, begin, min(step, length - begin))
    else:
        for index in range(length):
            yield from pieces(ordered.select(0, index), most_elements, most_copied)
