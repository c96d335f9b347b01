"""A checksum of the bits of a tensor, computed on the tensor's device."""

from functools import lru_cache

import torch
from torch import Tensor

# Most elements read at once. They need up to 8 MiB of temporary memory.
_PIECE = 2**20
# Words of eight bytes in a line. A piece has at most as many lines.
_LANES = 1024
_MULTIPLIER = 6364136223846793005  # of Knuth's MMIX generator: odd, and all its bits vary.
_BITS = 2**62 - 1
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def checksum(tensor: Tensor) -> Tensor:
    """Returns a checksum of all bits of a tensor and of their order.

    It is computed in integers modulo 2**64, so it does not depend on the order of additions. Equal
    tensors have equal checksums on every device, also if they hold NaN. The host does not wait for
    the device.

    Args:
        tensor: A strided tensor of any dtype, shape and strides.

    Returns:
        A scalar from 0 to 2**62 - 1. int64, on the tensor's device.
    """
    values = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    flat = values.reshape(-1)
    if flat.numel() <= _LANES:
        return _value(flat) & _BITS
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for piece in flat.split(_PIECE):
        # A polynomial in the multiplier, so that the order of the pieces matters.
        total = total * _MULTIPLIER + _value(piece)
    return total & _BITS


def _value(piece: Tensor) -> Tensor:
    """Returns the checksum of up to `_PIECE` elements, modulo 2**64."""
    weights = _weights(piece.device)
    per_word = 8 // piece.element_size()
    end = piece.numel() // per_word * per_word
    rest = piece[end:].view(_INTEGERS[piece.element_size()]).to(torch.int64)
    value = (rest * weights[: rest.numel()]).sum()
    whole = piece[:end]
    if whole.storage_offset() % per_word:  # A word has to begin at a multiple of eight bytes.
        whole = whole.clone()
    words = whole.view(torch.int64)
    end = words.numel() // _LANES * _LANES
    value += (words[end:] * weights[: words.numel() - end]).sum()
    if end:
        # One factor for the position in the line, and one for the position of the line.
        lines = (words[:end].view(-1, _LANES) * weights).sum(dim=1)
        value += (lines * weights[: lines.numel()]).sum()
    return value


@lru_cache(maxsize=8)
def _weights(device: torch.device) -> Tensor:
    """Returns odd multipliers, all different. int64, shape (_LANES,)."""
    places = torch.arange(_LANES, dtype=torch.int64, device=device)
    return (places * 2 + 1) * _MULTIPLIER
