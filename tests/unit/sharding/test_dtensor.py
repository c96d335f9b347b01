import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from tbtrainer.sharding import UnsupportedTensor
from tbtrainer.sharding.dtensor import DTensorAdapter, _is_counted


@dataclass
class MeshSeenByRank:
    """What a rank knows of a mesh, without a process group."""

    mesh: torch.Tensor
    rank: int

    def get_coordinate(self) -> list[int] | None:
        """Where the rank lies, or `None` outside the mesh."""
        found = (self.mesh == self.rank).nonzero()
        return found[0].tolist() if len(found) else None


shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3)


@given(shape=shapes, data=st.data())
def test_every_shard_is_counted_by_exactly_one_rank(shape: list[int], data: st.DataObject) -> None:
    placements = [
        data.draw(st.sampled_from([Shard(0), Shard(1), Replicate()]), label="placement")
        for _ in shape
    ]
    ranks = torch.arange(torch.Size(shape).numel()).view(shape)
    counted = []
    for rank in range(ranks.numel()):
        mesh = MeshSeenByRank(ranks, rank)
        if _is_counted(mesh, placements):
            counted.append(
                tuple(
                    index
                    for index, placement in zip(mesh.get_coordinate(), placements, strict=True)
                    if placement.is_shard()
                )
            )
    sizes = [n for n, placement in zip(shape, placements, strict=True) if placement.is_shard()]
    assert sorted(counted) == sorted(itertools.product(*map(range, sizes)))


def test_equal_meshes_side_by_side_are_counted_once() -> None:
    # Norms under FSDP2 with tensor parallel: each of two meshes holds all of them.
    meshes = [torch.tensor([0, 2]), torch.tensor([1, 3])]
    counted = [
        rank for rank in range(4) if _is_counted(MeshSeenByRank(meshes[rank % 2], rank), [Shard(0)])
    ]
    assert counted == [0, 2]


def test_a_rank_outside_the_mesh_counts_nothing() -> None:
    assert not _is_counted(MeshSeenByRank(torch.tensor([0, 1]), rank=3), [Shard(0)])


def test_partial_sums_are_never_counted() -> None:
    with pytest.raises(UnsupportedTensor, match="partial sum"):
        _is_counted(MeshSeenByRank(torch.tensor([0, 1]), rank=0), [Partial()])


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """A mesh of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_a_copy_is_divided_like_its_parameter(mesh: DeviceMesh) -> None:
    parameter = torch.nn.Parameter(DTensor.from_local(torch.arange(3.0), mesh, [Shard(0)]))
    adapter = DTensorAdapter()
    copy = (parameter * 2).detach()
    found = adapter.part(parameter, copy)
    assert found is not None
    assert found.tolist() == [0.0, 2.0, 4.0]
    with pytest.raises(UnsupportedTensor, match="the parameter is a DTensor"):
        adapter.part(parameter, torch.ones(3))


def test_a_gradient_may_be_placed_in_another_way(mesh: DeviceMesh) -> None:
    adapter = DTensorAdapter()
    placements = [[Shard(0)], [Replicate()], [Shard(0)]]
    for placement in placements:
        parameter = torch.nn.Parameter(DTensor.from_local(torch.ones(3), mesh, [Shard(0)]))
        parameter.grad = DTensor.from_local(torch.full((3,), 2.0), mesh, placement)
        found = adapter.gradient_part(parameter)
        assert found is not None
        assert type(found) is torch.Tensor
        assert not found.requires_grad


def test_each_gradient_of_a_parameter_is_placed_by_itself(
    mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands for a rank that is not the first of the mesh, so it counts no replica.
    monkeypatch.setattr(DeviceMesh, "get_coordinate", lambda mesh: [1])
    parameter = torch.nn.Parameter(DTensor.from_local(torch.ones(3), mesh, [Shard(0)]))
    sharded, replica = (
        DTensor.from_local(torch.ones(3), mesh, placement)
        for placement in ([Shard(0)], [Replicate()])
    )
    adapter = DTensorAdapter()
    has_part = []
    for gradient in (sharded, sharded, replica, replica, sharded):
        parameter.grad = gradient
        has_part.append(adapter.gradient_part(parameter) is not None)
    assert has_part == [True, True, False, False, True]
