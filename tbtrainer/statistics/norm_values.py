"""Which tensors have a norm, and how their elements are read."""

import torch
from torch import Tensor

_DTYPES = {
    dtype
    for name in (
        *("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    )
    if (dtype := getattr(torch, name, None)) is not None
}
# Dtypes that every device computes with.
PLAIN_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_SPARSE = {
    torch.sparse_coo,
    torch.sparse_csr,
    torch.sparse_csc,
    torch.sparse_bsr,
    torch.sparse_bsc,
}


class KindChanged(Exception):
    """Raised when a tensor is not of the kind that the plan was made for."""


def unreadable_reason(tensor: Tensor | None) -> str | None:
    """Returns why a tensor has no norm, or `None` if it has one or there is no tensor."""
    if tensor is None:
        return None
    if tensor.device.type == "meta":
        return "it is on the meta device, without data"
    if tensor.is_quantized:
        return f"it is quantised ({tensor.dtype})"
    if tensor.is_nested or (tensor.layout != torch.strided and tensor.layout not in _SPARSE):
        return f"its layout {tensor.layout} is not supported"
    if tensor.dtype not in _DTYPES:
        return f"its dtype {tensor.dtype} is not supported"
    if _is_released(tensor):
        return "its memory was released"
    return None


def _is_released(tensor: Tensor) -> bool:
    """Returns whether the storage is empty, so that PyTorch would crash when it reads elements."""
    return (
        tensor.__class__ in (Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.numel() > 0
        and tensor.untyped_storage().nbytes() == 0
        # A tensor of zeros without memory, which forward-mode differentiation makes.
        and not tensor._is_zerotensor()
    )


def values_of(tensor: Tensor) -> Tensor:
    """Returns the elements as a strided tensor of real numbers, of a dtype of `PLAIN_DTYPES`.

    Of a sparse tensor only the stored elements are returned. Elements that are stored twice are
    first added up, in a new tensor. A complex number becomes two real ones.
    """
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce().values()
    elif tensor.layout != torch.strided:
        tensor = tensor.values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor if tensor.dtype in PLAIN_DTYPES else tensor.to(torch.float32)
