"""Batches cut off at the examples that count, whatever they are made of."""

from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from transformers.modeling_outputs import CausalLMOutput, SequenceClassifierOutput

from tbtrainer.panels.nested import first_examples, first_tensor, without_values


class Pair(NamedTuple):
    """A tuple with names."""

    left: Tensor
    right: Tensor


ROWS = torch.arange(12.0).view(4, 3)
SCALAR = torch.tensor(1.0)


@pytest.mark.parametrize(
    "value",
    [
        ROWS,
        {"loss": SCALAR, "rows": ROWS, "other": torch.zeros(2)},
        UserDict({"text": "a", "rows": ROWS}),
        (SCALAR, ROWS),
        [None, {"deep": (ROWS,)}],
        Pair(ROWS, torch.zeros(1)),
        SequenceClassifierOutput(loss=SCALAR, logits=ROWS),
    ],
)
def test_the_first_tensor_with_a_dimension_is_found(value: Any) -> None:
    assert first_tensor(value) is ROWS


@pytest.mark.parametrize("value", [None, SCALAR, "text", {}, ([], {"a": 3})])
def test_without_tensors_there_is_no_first_one(value: Any) -> None:
    assert first_tensor(value) is None


def test_tensors_of_all_examples_are_cut_off() -> None:
    batch = {"rows": ROWS, "pair": (ROWS[:, 0], SCALAR), "three": torch.zeros(3), "name": "x"}
    found = first_examples(batch, 2, among=4)
    assert torch.equal(found["rows"], ROWS[:2])
    assert torch.equal(found["pair"][0], ROWS[:2, 0])
    assert found["pair"][1] is SCALAR
    assert len(found["three"]) == 3 and found["name"] == "x"


def test_lists_of_all_examples_are_cut_off() -> None:
    found = first_examples({"texts": list("abcd"), "sizes": [1, 2]}, 3, among=4)
    assert found == {"texts": list("abc"), "sizes": [1, 2]}


def test_a_tuple_as_long_as_the_batch_is_whole() -> None:
    found = first_examples((ROWS, ROWS, ROWS, ROWS), 1, among=4)
    assert [tuple(rows.shape) for rows in found] == [(1, 3)] * 4


def test_an_output_without_logits_still_has_the_name() -> None:
    found = first_examples(CausalLMOutput(loss=SCALAR, hidden_states=(ROWS,)), 4, among=4)
    assert found["logits"] is None
    assert torch.equal(found["hidden_states"][0], ROWS)


def test_what_is_returned_has_no_graph_and_no_copy() -> None:
    weights = torch.ones(4, 3, requires_grad=True)
    found = first_examples({"rows": weights}, 4, among=4)["rows"]
    assert not found.requires_grad
    assert found.data_ptr() == weights.data_ptr()


def test_the_batch_itself_stays_as_it_is() -> None:
    batch = {"rows": ROWS, "texts": list("abcd")}
    first_examples(batch, 1, among=4)
    assert len(batch["rows"]) == len(batch["texts"]) == 4


@pytest.fixture
def distributed() -> Iterator[Callable[[Placement], Tensor]]:
    """Places `ROWS` on a mesh of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    yield lambda placement: distribute_tensor(ROWS, mesh, [placement])
    dist.destroy_process_group()


def test_a_replicated_tensor_becomes_a_plain_one(
    distributed: Callable[[Placement], Tensor],
) -> None:
    found = first_examples({"rows": distributed(Replicate())}, 2, among=4)["rows"]
    assert not isinstance(found, DTensor) and torch.equal(found, ROWS[:2])


def test_a_divided_tensor_is_refused(distributed: Callable[[Placement], Tensor]) -> None:
    with pytest.raises(ValueError, match="divided among ranks.*Shard"):
        first_examples({"rows": distributed(Shard(1))}, 2, among=4)


def test_without_values_there_are_shapes_and_texts() -> None:
    batch = {"rows": ROWS, "loss": SCALAR, "cache": object(), "texts": ["a"], "pair": (ROWS, 3)}
    found = without_values(batch)
    assert found["rows"].device.type == "meta" and found["rows"].shape == (4, 3)
    assert found["loss"].device.type == "meta" and found["loss"].dtype == SCALAR.dtype
    assert found["pair"][0].shape == (4, 3) and found["pair"][1] == 3
    assert found["texts"] == ["a"] and found["cache"] is None
