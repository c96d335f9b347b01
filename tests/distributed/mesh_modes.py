"""Started by torchrun on four processes: meshes of two dimensions against references."""

import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor

from tests.distributed.lora import with_lora
from tests.distributed.odd_model import Block, OddModel
from tests.distributed.torch_modes import (
    by_hand,
    empty_shards,
    fsdp1,
    parallelize,
    summoned,
)
from tests.distributed.verification import Case, run


def hybrid_fsdp2(lora: bool = False) -> Case:
    """Sharded over two ranks, replicated over two such pairs."""
    model = with_lora(OddModel()) if lora else OddModel()
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    for module in (m for m in model.modules() if isinstance(m, Block)):
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return placed(by_hand(model, dist.get_rank()))


def hybrid_fsdp1() -> Case:
    """Sharded and replicated by FSDP1, on a mesh that accelerate would form by machines."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model = FullyShardedDataParallel(
        OddModel(),
        device_mesh=mesh,
        sharding_strategy=ShardingStrategy.HYBRID_SHARD,
        auto_wrap_policy=ModuleWrapPolicy({Block}),
        use_orig_params=True,
        device_id=torch.device("cpu"),
    )
    case = summoned(by_hand(model, dist.get_rank()))
    case.facts["empty_shards"] = empty_shards(model)
    return case


def fsdp2_with_tensor_parallel() -> Case:
    """Matrices sharded twice; norms sharded by FSDP2 and replicated by tensor parallel."""
    model = OddModel(tied=False)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    for block in model.blocks:
        parallelize(block, mesh["tensor"])
        fully_shard(block, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])
    # Both ranks of a tensor-parallel pair see the same data.
    return placed(by_hand(model, dist.get_rank() // 2))


def placed(case: Case) -> Case:
    """Adds how the parameters lie on their meshes to the facts."""
    case.facts["placements"] = sorted(
        {
            f"{p.device_mesh.ndim}: {', '.join(type(x).__name__.strip('_') for x in p.placements)}"
            for p in case.model.parameters()
            if isinstance(p, DTensor)
        }
    )
    return case


CASES = {
    "hsdp": hybrid_fsdp2,
    "hsdp-lora": lambda: hybrid_fsdp2(lora=True),
    "fsdp2-tensor-parallel": fsdp2_with_tensor_parallel,
    "fsdp1-four-ranks": lambda: fsdp1(OddModel(), original=True),
    "fsdp1-flat-four-ranks": lambda: fsdp1(OddModel(frozen=False), original=False),
    "fsdp1-hybrid": hybrid_fsdp1,
}

if __name__ == "__main__":
    dist.init_process_group("gloo")
    chosen = sys.argv[1:] or list(CASES)
    run({name: CASES[name] for name in chosen})
