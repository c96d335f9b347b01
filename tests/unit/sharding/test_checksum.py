import pytest
import torch
from torch import Tensor

from tbtrainer.sharding.checksum import checksum

SIZES = (0, 1, 1023, 1024, 1025, 2**20, 2**20 + 1, 3_000_001)


@pytest.mark.parametrize("size", SIZES)
def test_equal_tensors_have_equal_checksums(size: int) -> None:
    tensor = torch.randn(size)
    assert checksum(tensor).item() == checksum(tensor.clone()).item()
    assert 0 <= checksum(tensor).item() < 2**62


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("at", [0, 0.5, 1])
def test_one_other_element_is_another_checksum(size: int, at: float) -> None:
    tensor = torch.zeros(size)
    other = tensor.clone()
    other[min(int(at * size), size - 1)] = 1.0
    assert checksum(tensor).item() != checksum(other).item()


@pytest.mark.parametrize("size", [7, 1024 * 3, 2**21])
def test_another_order_is_another_checksum(size: int) -> None:
    tensor = torch.randn(size)
    assert checksum(tensor).item() != checksum(tensor.flip(0)).item()
    assert checksum(tensor).item() != checksum(tensor.roll(size // 2)).item()


def test_values_that_are_not_finite_equal_themselves() -> None:
    tensor = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0])
    assert checksum(tensor).item() == checksum(tensor.clone()).item()
    assert checksum(tensor).item() != checksum(tensor.nan_to_num()).item()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(5, 7).to(torch.bfloat16),
        torch.randn(5, 7).to(torch.float16),
        torch.randn(5, 7).to(torch.float64),
        torch.randn(5, 7).to(torch.float8_e4m3fn),
        torch.randn(5, 7, dtype=torch.complex64),
        torch.arange(35),
        torch.tensor([True, False]),
        torch.tensor(3.0),
    ],
    ids=lambda tensor: str(tensor.dtype),
)
def test_every_dtype_has_a_checksum(tensor: Tensor) -> None:
    assert checksum(tensor).item() == checksum(tensor.clone()).item()
    assert checksum(tensor).item() != checksum(torch.zeros_like(tensor)).item()


def test_strides_do_not_matter() -> None:
    tensor = torch.randn(30, 50)
    assert checksum(tensor.t().contiguous().t()).item() == checksum(tensor).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("start", [1, 2, 3, 4, 8])
def test_the_place_in_memory_does_not_matter(dtype: torch.dtype, start: int) -> None:
    tensor = torch.randint(-9, 9, (4_099,)).to(dtype)
    assert checksum(tensor[start:]).item() == checksum(tensor[start:].clone()).item()
