"""What the ranks compare has arrived in main memory when it is read."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tbtrainer.sharding import Row, agreement
from tbtrainer.sharding.agreement import Comparison, _checksums
from tbtrainer.sharding.checksum import checksum
from tbtrainer.sharding.plain import PlainAdapter
from tests.threaded_ranks import ThreadedRanks


@pytest.fixture
def late_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a copy to main memory that is not waited for hold anything but its values."""
    original = Tensor.to

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        copy = original(self, *args, **kwargs)
        late = kwargs.get("non_blocking", False) and copy.device.type == "cpu"
        return torch.full_like(copy, 77) if late else copy

    monkeypatch.setattr(Tensor, "to", to)


@pytest.mark.usefixtures("late_copies")
def test_checksums_are_waited_for() -> None:
    tensors = [torch.randn(5), torch.arange(7.0)]
    rows = [Row(str(t), t, t.numel(), PlainAdapter(True)) for t in tensors]
    sums, failed = _checksums(rows, [None, None])
    assert sums == [checksum(tensor).item() for tensor in tensors]
    assert failed == set()


def test_a_tensor_without_a_checksum_is_refused_not_equal() -> None:
    sparse = torch.eye(3).to_sparse()
    rows = [Row("sparse", sparse, 9, PlainAdapter(True))]
    assert _checksums(rows, [None]) == ([0], {0})


def test_a_row_that_is_refused_anyway_is_not_read() -> None:
    rows = [Row("sparse", torch.eye(3).to_sparse(), 9, PlainAdapter(True))]
    assert _checksums(rows, ["it is sparse"]) == ([0], set())


@pytest.mark.parametrize("names", [["a", "a"], ["a", "b"]])
def test_a_comparison_allocates_nothing_later(
    names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = ThreadedRanks(2)
    made = ranks.run(lambda rank: Comparison(names[rank]))

    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError("no memory")

    monkeypatch.setattr(agreement.torch, "tensor", fail)
    assert ranks.run(lambda rank: made[rank].is_same()) == [names[0] == names[1]] * 2
    assert len(ranks.collectives) == 1
