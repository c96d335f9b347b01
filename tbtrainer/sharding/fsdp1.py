"""`FullyShardedDataParallel` (FSDP1): slices of the parameters, or flat parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from tbtrainer.sharding.adapter import ShardAdapter, UnsupportedTensor
from tbtrainer.sharding.torch_states import check_same_shape, torch_states


def fsdp1_adapters(model: nn.Module) -> list[ShardAdapter]:
    """Returns the adapter of the parameters in FSDP1 modules; an empty list if there are none."""
    if not (dist.is_available() and dist.is_initialized()):
        return []
    from torch.distributed.fsdp import FullyShardedDataParallel

    shards: dict[int, _Shard] = {}
    for module in FullyShardedDataParallel.fsdp_modules(model):
        shards.update(_shards_of(module))
    return [Fsdp1Adapter(shards)] if shards else []


@dataclass(frozen=True)
class _Shard:
    """What this rank holds of one parameter.

    Attributes:
        global_count: Elements of the whole tensor, without padding.
        local_count: Elements on this rank, without padding.
        stored_count: Elements on this rank, with padding at the end.
        is_counted: Whether this rank counts its elements. False if a replica of them is counted.
        problem: Why the parameter cannot be read, or `None`.
    """

    global_count: int = 0
    local_count: int = 0
    stored_count: int = 0
    is_counted: bool = False
    problem: str | None = None


class Fsdp1Adapter:
    """FSDP1: each rank counts its slice of a parameter.

    Under hybrid sharding only the ranks of the sharding group with world rank zero count. With
    `use_orig_params=False` each flat parameter is a row.

    Args:
        shards: What this rank holds of each parameter, by the parameter's `id`.
    """

    mode = "fsdp1"
    is_sharded = True
    gradient_problem: str | None = None
    copies_gradients = False

    def __init__(self, shards: dict[int, _Shard]) -> None:
        self._shards = shards

    def supports(self, parameter: Tensor) -> bool:
        """Returns whether an FSDP1 module holds the parameter."""
        return id(parameter) in self._shards

    def unsupported_reason(self, parameter: Tensor) -> str | None:
        """Returns why the shards are unknown (torch version, groups of ranks), or `None`."""
        return self._shards[id(parameter)].problem

    def whole(self, parameter: Tensor) -> Tensor | None:
        """Returns `None`: no rank holds the whole parameter."""
        return None

    def global_count(self, parameter: Tensor) -> int:
        """Returns the number of elements of the whole parameter."""
        return self._shards[id(parameter)].global_count

    def part(self, parameter: Tensor, tensor: Tensor) -> Tensor | None:
        """Returns this rank's slice of a tensor, which may be empty."""
        shard = self._shards[id(parameter)]
        if tensor.numel() != shard.stored_count:
            raise UnsupportedTensor("FSDP1 has it gathered at this moment")
        if not shard.is_counted:
            return None
        part = tensor.detach() if tensor.requires_grad else tensor
        return part if shard.local_count == shard.stored_count else part[: shard.local_count]

    def gradient_part(self, parameter: Tensor) -> Tensor | None:
        """Returns this rank's slice of the gradient; `None` without one, as for an empty slice."""
        gradient = parameter.grad
        return None if gradient is None else self.part(parameter, gradient)

    def optimizer_states(self, parameter: Tensor, optimizer: Any) -> Mapping[str, Any]:
        """Returns the optimizer's states of a parameter, as this rank holds them."""
        return torch_states(optimizer, parameter)

    def state_part(self, parameter: Tensor, state: Tensor) -> Tensor | None:
        """Returns this rank's slice of a state of the shape of its parameter."""
        check_same_shape(parameter, state)
        return self.part(parameter, state)


def _shards_of(module: nn.Module) -> dict[int, _Shard]:
    """Returns the shards of the parameters that one FSDP1 module holds, by the parameter's `id`."""
    try:
        return _read_handle(module)
    except (AttributeError, TypeError, ValueError) as error:
        problem = f"this version of torch keeps FSDP1's shards in another way ({error})"
        return {id(parameter): _Shard(problem=problem) for parameter in module.parameters()}


def _read_handle(module: Any) -> dict[int, _Shard]:
    """Reads the shards from FSDP1's private attributes. Seen in torch 2.4 to 2.13."""
    handle = module._handle
    if handle is None:  # The module holds no parameters of its own.
        return {}
    flat = handle.flat_param
    is_sharded = handle.uses_sharded_strategy
    is_counted = dist.get_rank() == 0
    problem = None
    if is_sharded:
        ranks = dist.get_process_group_ranks(handle.process_group)
        replicas = getattr(module, "_inter_node_pg", None)
        copies = 1 if replicas is None else dist.get_world_size(replicas)
        is_counted = 0 in ranks
        if len(ranks) * copies != dist.get_world_size():
            problem = (
                "FSDP1 shards over some of the ranks, and the parts of the other ranks are unknown"
            )
    if flat._params is None:
        padding = flat._shard_numel_padded if is_sharded else 0
        stored = flat._sharded_size.numel()
        whole = sum(flat._numels)
        return {id(flat): _Shard(whole, stored - padding, stored, is_counted, problem)}
    shards = {}
    infos = zip(flat._params, flat._numels, flat._shard_param_infos, strict=True)
    for parameter, whole, info in infos:
        local = (info.numel_in_shard if info.in_shard else 0) if is_sharded else whole
        shards[id(parameter)] = _Shard(whole, local, local, is_counted, problem)
    return shards
