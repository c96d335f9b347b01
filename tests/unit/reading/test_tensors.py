"""Tensors of summaries as arrays."""

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.util.tensor_util import make_ndarray, make_tensor_proto

from tbtrainer.reading.tensors import UnreadableValue, array_of, number_of, strings_of

ARRAYS = [
    np.array([[1.5, 2.0], [3.0, 0.0]]).astype(dtype)
    for dtype in ("f4", "f8", "i4", "i8", "u1", "i2", "i1", "f2", "u2", "u4", "u8", "?")
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: array.dtype.name)
def test_arrays_are_those_of_tensorboard(array: NDArray[np.generic]) -> None:
    proto = make_tensor_proto(array)
    found = array_of(proto)
    np.testing.assert_array_equal(found, make_ndarray(proto))
    assert found.shape == array.shape


def test_one_element_stands_for_all() -> None:
    proto = TensorProto(dtype=1, float_val=[2.0])
    for size in (2, 3):
        proto.tensor_shape.dim.add(size=size)
    np.testing.assert_array_equal(array_of(proto), np.full((2, 3), 2.0))


def test_a_forged_shape_costs_no_memory() -> None:
    proto = TensorProto(dtype=1, float_val=[2.0])
    for _ in range(3):
        proto.tensor_shape.dim.add(size=2**20)
    with pytest.raises(UnreadableValue):
        array_of(proto)
    assert number_of(proto.SerializeToString()) is None


@pytest.mark.parametrize(
    ("content", "shape"),
    [
        (b"12345", []),
        (b"1234" * 2, [3]),
        (b"", [2]),
        (b"1234", [-1]),
        (b"1234", [1] * 70),
        (b"", [2**62, 2**62, 0]),
    ],
)
def test_a_tensor_with_wrong_elements_is_refused(content: bytes, shape: list[int]) -> None:
    proto = TensorProto(dtype=1, tensor_content=content)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    with pytest.raises(UnreadableValue):
        array_of(proto)


def test_numbers_and_strings_are_told_apart() -> None:
    texts = TensorProto(dtype=7, string_val=[b"a", b"b"])
    assert strings_of(texts) == [b"a", b"b"]
    with pytest.raises(UnreadableValue):
        array_of(texts)
    with pytest.raises(UnreadableValue):
        strings_of(TensorProto(dtype=1, float_val=[1]))
