"""Tensors of any strides cut into pieces that fit a cache, without copying the whole."""

from collections.abc import Iterator

from torch import Tensor


def in_order_of_memory(tensor: Tensor) -> Tensor:
    """Orders the dimensions by stride: a transposed or channels-last tensor is then contiguous."""
    return tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))


def pieces(tensor: Tensor, most_elements: int, most_copied: int) -> Iterator[Tensor]:
    """Cuts a tensor into views that together hold every element once.

    Args:
        tensor: Strided, of any shape and strides.
        most_elements: The most elements of a piece whose memory is in one piece.
        most_copied: The most elements of any other.

    Yields:
        Views, for `reshape(-1)`, which copies those whose memory is not in one piece.
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
