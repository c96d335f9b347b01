"""Started by torchrun on two processes: DDP, FSDP1, FSDP2, tensor parallel against references."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.distributed.tensor import DTensor, distribute_module
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from tbtrainer.sharding import ParameterTable
from tests.distributed.fsdp_on_cpu import allow_fsdp_on_cpu
from tests.distributed.lora import with_lora
from tests.distributed.odd_model import Block, OddModel, batch
from tests.distributed.verification import Case, GatherState, run

allow_fsdp_on_cpu()


def training(model: nn.Module, optimizer: Any, backward: Callable[[Tensor], Any], rank: int) -> Any:
    """Returns a step like that of `Trainer`: gradients are observed before the optimizer's step."""

    def train_step(observe: Callable[[], None], step: int) -> None:
        backward(model(batch(step, rank)))
        observe()
        optimizer.step()
        optimizer.zero_grad()

    return train_step


def gathered(tensor: Tensor | None) -> Tensor | None:
    """The whole tensor, gathered if it is a DTensor."""
    if tensor is None:
        return None
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def parameters(table: ParameterTable) -> list[Tensor | None]:
    """Whole parameters where they are whole or DTensors."""
    return [gathered(row.parameter) for row in table.rows]


def gradients(table: ParameterTable) -> list[Tensor | None]:
    """Whole gradients of the same parameters."""
    return [gathered(row.parameter.grad) for row in table.rows]


def state(optimizer: Any) -> GatherState:
    """Whole optimizer states of the same parameters."""

    def full_state(table: ParameterTable, name: str) -> list[Tensor | None]:
        of_rows = [optimizer.state.get(row.parameter, {}) for row in table.rows]
        return [gathered(of_row.get(name)) for of_row in of_rows]

    return full_state


def accelerated(
    model: nn.Module, mixed_precision: str = "no", plugin: Any = None
) -> tuple[Accelerator, nn.Module, Any]:
    """Prepares model and optimizer with accelerate, like `Trainer` does."""
    AcceleratorState._reset_state()
    PartialState._reset_state()
    accelerator = Accelerator(
        cpu=True,
        mixed_precision=mixed_precision,
        fsdp_plugin=plugin,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    return accelerator, model, optimizer


def facts(accelerator: Accelerator, model: nn.Module) -> dict[str, Any]:
    """Facts that show which mode is on."""
    return {
        "distributed_type": str(accelerator.distributed_type).split(".")[-1],
        "wrapper": type(model).__name__,
        "types": sorted({type(p).__name__ for p in model.parameters()}),
        "empty_shards": empty_shards(model),
    }


def empty_shards(model: nn.Module) -> int:
    """How many parameters have no element on a rank; the largest number of all ranks."""
    locals_ = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    counts = [0] * dist.get_world_size()
    dist.all_gather_object(counts, sum(local.numel() == 0 for local in locals_))
    return max(counts)


def ddp(compiled: bool = False) -> Case:
    model: nn.Module = OddModel()
    if compiled:
        model = torch.compile(model, backend="eager")
    accelerator, model, optimizer = accelerated(model)
    step = training(model, optimizer, accelerator.backward, accelerator.process_index)
    return case_of(model, step, optimizer, facts(accelerator, model))


def case_of(model: nn.Module, step: Any, optimizer: Any, seen: dict[str, Any]) -> Case:
    """A case whose parameters are whole or DTensors."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return Case(model, step, parameters, gradients, state(inner), inner, seen)


def ddp_float16() -> Case:
    """Gradients multiplied by a loss scale that is no power of two."""
    accelerator, model, optimizer = accelerated(OddModel())
    scale = torch.tensor(1000.0)

    def backward(loss: Tensor) -> None:
        accelerator.backward(loss * scale)

    step = training(model, optimizer, backward, accelerator.process_index)
    case = case_of(model, step, optimizer, facts(accelerator, model))
    return replace(case, loss_scale=lambda: scale)


def fsdp2(model: nn.Module, mixed_precision: str = "no", evaluated: bool = False) -> Case:
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Block"],
        cpu_ram_efficient_loading=False,
    )
    accelerator, model, optimizer = accelerated(model, mixed_precision, plugin)
    if evaluated:
        # The outermost parameters stay gathered after this, under the name of the sharded ones.
        model.eval()
        with torch.no_grad():
            model(batch(0, 0))
        model.train()
    seen = facts(accelerator, model)
    step = training(model, optimizer, accelerator.backward, accelerator.process_index)
    return case_of(model, step, optimizer, seen)


def fsdp1(
    model: nn.Module,
    original: bool,
    strategy: ShardingStrategy = ShardingStrategy.FULL_SHARD,
    mixed_precision: str = "no",
) -> Case:
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=1,
        sharding_strategy=strategy,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Block"],
        use_orig_params=original,
        cpu_ram_efficient_loading=False,
        sync_module_states=False,
    )
    accelerator, model, optimizer = accelerated(model, mixed_precision, plugin)
    if not original:  # The flat parameters exist only now. `Trainer` makes its optimizer so late.
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step = training(model, optimizer, accelerator.backward, accelerator.process_index)
    seen = facts(accelerator, model)
    case = case_of(model, step, optimizer, seen)
    return summoned(case) if original else flattened(case)


def summoned(case: Case) -> Case:
    """Returns a case whose references are read while FSDP1 has all parameters gathered."""

    def full_parameters(table: ParameterTable) -> list[Tensor | None]:
        with FullyShardedDataParallel.summon_full_params(case.model, writeback=False):
            return parameters(table)

    def full_gradients(table: ParameterTable) -> list[Tensor | None]:
        with FullyShardedDataParallel.summon_full_params(
            case.model, writeback=False, with_grads=True
        ):
            full = gradients(table)
        # FSDP1 shows zeros as the gradients of frozen parameters.
        trained = [row.parameter.requires_grad for row in table.rows]
        return [g if trains else None for g, trains in zip(full, trained, strict=True)]

    def full_state(table: ParameterTable, name: str) -> list[Tensor | None]:
        # `FullyShardedDataParallel.optim_state_dict` gives one state for another on a CPU (2.13).
        of_rows = [case.optimizer.state.get(row.parameter, {}) for row in table.rows]
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, [of_row.get(name) for of_row in of_rows])
        ranks = dist.get_process_group_ranks(case.model.process_group)
        slices = zip(*(everyone[rank] for rank in ranks), strict=True)
        return [
            put_together(row.global_count, parts)
            for row, parts in zip(table.rows, slices, strict=True)
        ]

    return replace(
        case,
        full_parameters=full_parameters,
        full_gradients=full_gradients,
        full_state=full_state,
    )


def put_together(count: int | None, parts: Sequence[Tensor | None]) -> Tensor | None:
    """The slices of all ranks one after another; the first one if it is the whole tensor."""
    held = [part for part in parts if part is not None]
    return None if not held else held[0] if held[0].numel() == count else torch.cat(held)


def flattened(case: Case) -> Case:
    """Returns a case whose references are flat parameters, put together from all ranks."""

    def full_parameters(table: ParameterTable) -> list[Tensor | None]:
        return [from_all_ranks(row.parameter, row.global_count) for row in table.rows]

    def full_gradients(table: ParameterTable) -> list[Tensor | None]:
        return [from_all_ranks(row.parameter.grad, row.global_count) for row in table.rows]

    def full_state(table: ParameterTable, name: str) -> list[Tensor | None]:
        of_rows = [case.optimizer.state[row.parameter] for row in table.rows]
        counts = [row.global_count for row in table.rows]
        return [from_all_ranks(s[name], n) for s, n in zip(of_rows, counts, strict=True)]

    return replace(
        case,
        full_parameters=full_parameters,
        full_gradients=full_gradients,
        full_state=full_state,
    )


def from_all_ranks(shard: Tensor | None, count: int) -> Tensor | None:
    """The shards of all ranks concatenated, without the padding at the end."""
    if shard is None:
        return None
    shards = [torch.empty_like(shard) for _ in range(dist.get_world_size())]
    dist.all_gather(shards, shard.detach())
    return torch.cat(shards)[:count]


def tensor_parallel() -> Case:
    """Sharded matrices, norms on a part of the sequence, the rest whole on every rank."""
    model = OddModel(tied=False)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        parallelize(block, mesh)
    return by_hand(model, rank=0)


def parallelize(block: Block, mesh: Any) -> None:
    """Rows and columns over a mesh of one dimension, norms replicated."""
    distribute_module(
        block.norm, mesh, input_fn=lambda _, inputs, mesh: DTensor.from_local(inputs[0], mesh)
    )
    # Between the two the results stay DTensors, which know that the ranks' parts differ in size.
    plan = {"up": ColwiseParallel(use_local_output=False), "down": RowwiseParallel()}
    parallelize_module(block, mesh, plan)


def by_hand(model: nn.Module, rank: int) -> Case:
    """A case without accelerate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    step = training(model, optimizer, lambda loss: loss.backward(), rank)
    seen = {"types": sorted({type(p).__name__ for p in model.parameters()})}
    return case_of(model, step, optimizer, seen)


CASES = {
    "ddp": ddp,
    "ddp-compiled": lambda: ddp(compiled=True),
    "ddp-float16": ddp_float16,
    "fsdp2": lambda: fsdp2(OddModel()),
    "fsdp2-bfloat16": lambda: fsdp2(OddModel(), mixed_precision="bf16"),
    "fsdp2-lora": lambda: fsdp2(with_lora(OddModel())),
    "fsdp2-after-evaluation": lambda: fsdp2(OddModel(), evaluated=True),
    "fsdp1": lambda: fsdp1(OddModel(), original=True),
    "fsdp1-bfloat16": lambda: fsdp1(OddModel(), original=True, mixed_precision="bf16"),
    "fsdp1-lora": lambda: fsdp1(with_lora(OddModel()), original=True),
    "fsdp1-no-shard": lambda: fsdp1(OddModel(), original=True, strategy=ShardingStrategy.NO_SHARD),
    "fsdp1-flat": lambda: fsdp1(OddModel(frozen=False), original=False),
    "tensor-parallel": tensor_parallel,
}

if __name__ == "__main__":
    dist.init_process_group("gloo")
    chosen = sys.argv[1:] or list(CASES)
    run({name: CASES[name] for name in chosen})
