"""Which tensor of an output is counted, and on which rank."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tbtrainer.sharding import UnsupportedTensor, outputs
from tbtrainer.sharding.outputs import counts_plain_outputs, first_floating, output_part
from tbtrainer.sharding.ranks import ModelParallelSizes

FLOATS, HALVES = torch.ones(2), torch.ones(2, dtype=torch.bfloat16)
NUMBERS = torch.ones(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (FLOATS, FLOATS),
        (NUMBERS, None),
        ((NUMBERS, HALVES, FLOATS), HALVES),
        ([None, (NUMBERS, {"ids": NUMBERS, "hidden": FLOATS})], FLOATS),
        ({"hidden": HALVES}, HALVES),
        (torch.ones(2, dtype=torch.complex64), None),
        ("text", None),
        ((), None),
    ],
    ids=str,
)
def test_the_first_floating_tensor_is_taken(output: Any, expected: Tensor | None) -> None:
    assert first_floating(output) is expected


@pytest.mark.parametrize(
    ("sizes", "counting"),
    [
        (ModelParallelSizes(), [0, 1, 2, 3]),
        (ModelParallelSizes(tensor=2), [0, 2]),
        (ModelParallelSizes(tensor=4), [0]),
        # They divide the sequences, so each has another part.
        (ModelParallelSizes(context=2), [0, 1, 2, 3]),
        (ModelParallelSizes(tensor=2, sequence=2), [0, 2]),
    ],
    ids=str,
)
def test_one_rank_of_a_tensor_parallel_group_counts(
    sizes: ModelParallelSizes, counting: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for rank in range(4):
        monkeypatch.setattr(outputs, "own_rank", lambda rank=rank: rank)
        found += [rank] if counts_plain_outputs(sizes) else []
    assert found == counting


def test_a_plain_output_is_detached_and_not_copied() -> None:
    output = torch.ones(3, requires_grad=True) * 2
    part = output_part(output, counts_plain=True)
    assert part is not None
    assert not part.requires_grad
    assert part.data_ptr() == output.data_ptr()
    assert output_part(output, counts_plain=False) is None


def test_a_subclass_of_unknown_contents_is_refused() -> None:
    class Packed(Tensor):
        pass

    with pytest.raises(UnsupportedTensor, match="the tensor type Packed is not supported"):
        output_part(torch.ones(2).as_subclass(Packed), counts_plain=True)
