"""Tensors of summaries as NumPy arrays."""

import math
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorboard.compat.proto.tensor_pb2 import TensorProto

# A file from elsewhere may claim any shape for one element.
MOST_COPIES = 2**16
_DT_STRING = 7
_DT_BFLOAT16, _DT_HALF = 14, 19
# By number of `DataType`: the dtype of NumPy and the field with values that are not packed bytes.
_DTYPES: dict[int, tuple[str, str]] = {
    1: ("<f4", "float_val"),
    2: ("<f8", "double_val"),
    3: ("<i4", "int_val"),
    4: ("<u1", "int_val"),
    5: ("<i2", "int_val"),
    6: ("<i1", "int_val"),
    9: ("<i8", "int64_val"),
    10: ("?", "bool_val"),
    _DT_BFLOAT16: ("<u2", "half_val"),
    17: ("<u2", "int_val"),
    _DT_HALF: ("<u2", "half_val"),
    22: ("<u4", "uint32_val"),
    23: ("<u8", "uint64_val"),
}


class UnreadableValue(ValueError):
    """The bytes of a value are not what its tag's metadata says."""


def strings_of(proto: Any) -> list[bytes]:
    """Returns the elements of a tensor of strings.

    Raises:
        UnreadableValue: The tensor has another dtype.
    """
    if proto.dtype != _DT_STRING:
        raise UnreadableValue(f"a tensor of dtype {proto.dtype} is not one of strings")
    return list(proto.string_val)


def array_of(proto: Any) -> NDArray[Any]:
    """Returns a numeric tensor.

    Args:
        proto: A `TensorProto`.

    Returns:
        The elements in the shape of the tensor. bfloat16 becomes float32. A single element stands
        for all, up to `MOST_COPIES`, as in TensorFlow.

    Raises:
        UnreadableValue: The dtype is not numeric, or there are more or fewer elements than the
            shape has.
    """
    if proto.dtype not in _DTYPES:
        raise UnreadableValue(f"a tensor of dtype {proto.dtype} has no numbers")
    dtype, field = _DTYPES[proto.dtype]
    shape = [dim.size for dim in proto.tensor_shape.dim]
    content = proto.tensor_content
    if content:
        if len(content) % np.dtype(dtype).itemsize:
            raise UnreadableValue("a tensor has a part of an element")
        elements = np.frombuffer(content, dtype)
    else:
        elements = _listed(getattr(proto, field), dtype)
    elements = _as_floats(elements, proto.dtype)
    count = math.prod(shape)
    is_repeated = len(elements) == 1 and count <= MOST_COPIES
    if any(size < 0 for size in shape) or not (is_repeated or len(elements) == count):
        raise UnreadableValue(f"a tensor of shape {shape} has {len(elements)} elements")
    elements = elements if len(elements) == count else np.repeat(elements, count)
    try:
        return elements.reshape(shape)
    except (ValueError, OverflowError):
        # More dimensions than NumPy has, or a size of no elements that is too large for it.
        raise UnreadableValue(f"a tensor has {len(shape)} dimensions, or too large ones") from None


def number_of(tensor: bytes) -> float | None:
    """Returns the number of a tensor that has exactly one; `None` for any other tensor.

    Args:
        tensor: A serialized `TensorProto`.
    """
    try:
        found = array_of(TensorProto.FromString(tensor))
    except (DecodeError, UnreadableValue, ValueError):
        return None
    return float(found.reshape(-1)[0]) if found.size == 1 else None


def _listed(values: Any, dtype: str) -> NDArray[Any]:
    """Returns elements that a message lists as wider numbers."""
    wide = np.array(values, dtype=np.uint64 if dtype == "<u8" else None)
    return wide.astype(dtype) if len(wide) else np.zeros(0, dtype)


def _as_floats(elements: NDArray[Any], dtype: int) -> NDArray[Any]:
    """Returns elements whose bits are those of a half or a bfloat16 as floats."""
    if dtype == _DT_HALF:
        return elements.view(np.float16)
    if dtype == _DT_BFLOAT16:
        return (elements.astype(np.uint32) << 16).view(np.float32)
    return elements
