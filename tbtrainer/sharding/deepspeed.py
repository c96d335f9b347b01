"""DeepSpeed: ZeRO-1 and ZeRO-2 partition gradients, ZeRO-3 parameters and gradients.

This module does not import DeepSpeed. It recognises its parameters by the attributes that DeepSpeed
gives them. They are read in this file only. Seen in deepspeed 0.16 to 0.19.
"""

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from tbtrainer.sharding.adapter import ShardAdapter, UnsupportedTensor, unsupported_tensor_type
from tbtrainer.sharding.plain import PlainAdapter
from tbtrainer.sharding.torch_states import torch_states

_ON_SOME_RANKS = (
    "DeepSpeed partitions over some of the ranks (MiCS, tensor or expert parallelism), and the "
    "parts of the other ranks are unknown"
)
_MIXED_UP = "with round_robin_gradients DeepSpeed mixes them up (seen in 0.19.8)"
_ON_NVME = (
    "DeepSpeed offloads the optimizer to NVMe, and each gradient would have to be read from there"
)
_STATES_ON_NVME = "DeepSpeed keeps them on NVMe"
_UNKNOWN_STATES = "this version of DeepSpeed keeps ZeRO-{}'s optimizer states in an unknown place"
_UNKNOWN_PLACE = (AttributeError, KeyError, IndexError, TypeError, ValueError)


def deepspeed_adapters(model: nn.Module, is_world_process_zero: bool) -> list[ShardAdapter]:
    """Returns the adapters of the parameters that DeepSpeed partitions; none without DeepSpeed.

    Args:
        model: The model as it is trained. Under DeepSpeed it is the engine.
        is_world_process_zero: Whether this rank counts the tensors that every rank holds.
    """
    parameters = list(model.parameters())
    if any(hasattr(parameter, "ds_tensor") for parameter in parameters):
        optimizers = [getattr(parameter, "_z3_optimizer", None) for parameter in parameters]
        on_nvme = any(getattr(optimizer, "swap_optimizer", False) for optimizer in optimizers)
        return [Zero3Adapter(_ON_NVME if on_nvme else None)]
    if any(hasattr(parameter, "_hp_mapping") for parameter in parameters):
        stage = getattr(model, "zero_optimization_stage", lambda: 1)()
        optimizer = getattr(model, "optimizer", None)
        # DeepSpeed looks fragments up in the order of the parameters, and stores them in another.
        problem = _MIXED_UP if getattr(optimizer, "round_robin_gradients", False) else None
        return [PartitionedGradientsAdapter(f"zero{int(stage)}", is_world_process_zero, problem)]
    return []


class PartitionedGradientsAdapter:
    """ZeRO-1, ZeRO-2 and the bfloat16 optimizer: whole parameters, partitioned gradients.

    Gradients exist only between the backward pass and the end of `engine.step`. With an offloaded
    optimizer DeepSpeed copies them to pinned memory without waiting for the copies.

    Args:
        mode: `"zero0"`, `"zero1"` or `"zero2"`, by the stage.
        is_world_process_zero: Whether this rank counts the parameters.
        gradient_problem: Why no gradient can be read, or `None`; the same on every rank.
    """

    is_sharded = True
    copies_gradients = True

    def __init__(
        self, mode: str, is_world_process_zero: bool, gradient_problem: str | None = None
    ) -> None:
        self.mode = mode
        self.gradient_problem = gradient_problem
        values = PlainAdapter(is_world_process_zero)
        self.whole, self.global_count, self.part = values.whole, values.global_count, values.part

    def supports(self, parameter: Tensor) -> bool:
        """Returns whether the optimizer partitions the gradient. Frozen parameters have none."""
        return hasattr(parameter, "_hp_mapping")

    def unsupported_reason(self, parameter: Tensor) -> str | None:
        """Refuses partitions that do not span all ranks, and unknown tensor subclasses."""
        if not _spans_all_ranks(getattr(parameter, "_dp_group", None)):
            return _ON_SOME_RANKS
        return unsupported_tensor_type(parameter)

    def gradient_part(self, parameter: Tensor) -> Tensor | None:
        """Returns the fragment of the gradient in this rank's optimizer partition."""
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:  # The parameter is in the partitions of other ranks.
            return None
        try:
            fragment = mapping.get_lp_grad_fragment(parameter._index_in_param_group)  # type: ignore[attr-defined]
        except ValueError:  # There is no gradient between `engine.step` and the backward pass.
            return None
        if fragment is None:
            return None
        address = mapping.lp_fragment_address
        if fragment.numel() == parameter.numel():
            # The bfloat16 optimizer keeps the whole gradient on every rank.
            fragment = fragment.reshape(-1)[address.start : address.start + address.numel]
        if fragment.numel() != address.numel:
            raise UnsupportedTensor(
                "the size of DeepSpeed's fragment differs from that of its partition"
            )
        return fragment.detach() if fragment.requires_grad else fragment  # type: ignore[no-any-return]

    def optimizer_states(self, parameter: Tensor, optimizer: Any) -> Mapping[str, Any]:
        """Returns the fragments of the states in this rank's optimizer partition."""
        if self.gradient_problem is not None:  # DeepSpeed mixes up the places of both.
            raise UnsupportedTensor(self.gradient_problem)
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:  # The parameter is in the partitions of other ranks.
            return {}
        try:
            base, place = optimizer.optimizer, mapping.hp_fragment_address
            # Not `mapping.optim_fragment`, which DeepSpeed sets for the first group only (0.19.8).
            (flat,) = base.param_groups[mapping.param_group_index]["params"]
            return _narrowed(torch_states(base, flat), flat, place.start, place.numel)
        except _UNKNOWN_PLACE as error:
            raise UnsupportedTensor(f"{_UNKNOWN_STATES.format('1 and -2')} ({error!r})") from error

    def state_part(self, parameter: Tensor, state: Tensor) -> Tensor:
        """Returns the fragment itself, which has no padding."""
        if state.numel() != parameter._hp_mapping.lp_fragment_address.numel:  # type: ignore[attr-defined]
            raise UnsupportedTensor(
                "the size of DeepSpeed's fragment differs from that of its partition"
            )
        return state


class Zero3Adapter:
    """ZeRO-3: each rank holds a flat partition of every parameter and gradient, with padding.

    Args:
        gradient_problem: Why no gradient can be read, or `None`; the same on every rank.
    """

    mode = "zero3"
    is_sharded = True
    copies_gradients = True

    def __init__(self, gradient_problem: str | None = None) -> None:
        self.gradient_problem = gradient_problem
        # Asking for a rank takes as long as all else that is done for a gradient.
        self._rank_in: dict[object, int] = {}

    def supports(self, parameter: Tensor) -> bool:
        """Returns whether ZeRO-3 partitioned the parameter."""
        return hasattr(parameter, "ds_tensor")

    def unsupported_reason(self, parameter: Tensor) -> str | None:
        """Refuses partitions that do not span all ranks, are quantised, or are not in memory."""
        if not _spans_all_ranks(parameter.ds_process_group):  # type: ignore[attr-defined]
            return _ON_SOME_RANKS
        partition = parameter.ds_tensor  # type: ignore[attr-defined]
        if hasattr(partition, "ds_quant_scale"):
            return "DeepSpeed keeps them quantised"
        if getattr(partition, "final_location", None) is not None:
            return "DeepSpeed keeps them on NVMe"
        return unsupported_tensor_type(parameter)

    def whole(self, parameter: Tensor) -> Tensor | None:
        """Returns `None`: no rank holds the whole parameter."""
        return None

    def global_count(self, parameter: Tensor) -> int:
        """Returns the number of elements of the whole parameter, without padding."""
        return int(parameter.ds_numel)  # type: ignore[attr-defined]

    def part(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        """Returns this rank's partition of a tensor, without padding."""
        partition = parameter.ds_tensor if tensor is parameter else tensor  # type: ignore[attr-defined]
        group = parameter.ds_process_group  # type: ignore[attr-defined]
        if group not in self._rank_in:
            self._rank_in[group] = dist.get_rank(group)
        size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        if partition.numel() != size:
            raise UnsupportedTensor(
                "its size differs from that of ZeRO-3's partition of the parameter"
            )
        if partition.requires_grad:
            partition = partition.detach()
        flat: Tensor = partition if partition.dim() == 1 else partition.reshape(-1)
        unpadded = max(0, parameter.ds_numel - self._rank_in[group] * size)  # type: ignore[attr-defined]
        return flat if unpadded >= size else flat[:unpadded]

    def gradient_part(self, parameter: Tensor) -> Tensor | None:
        """Returns this rank's partition of the gradient, without padding.

        It exists only between the backward pass and the end of `engine.step`.
        """
        optimizer = getattr(parameter, "_z3_optimizer", None)
        if optimizer is None or not parameter.requires_grad:
            return None
        partition = _zero3_gradient(optimizer, parameter)
        return None if partition is None else self.part(parameter, partition)

    def optimizer_states(self, parameter: Tensor, optimizer: Any) -> Mapping[str, Any]:
        """Returns this rank's partitions of the states, with padding."""
        own = getattr(parameter, "_z3_optimizer", None)
        if own is None or not parameter.requires_grad:
            return {}
        return _zero3_states(own, parameter)

    def state_part(self, parameter: Tensor, state: Tensor) -> Tensor:
        """Returns a partition of a state without its padding."""
        return self.part(parameter, state)


def _zero3_gradient(optimizer: Any, parameter: Any) -> Tensor | None:
    """Returns DeepSpeed's own tensor that holds the partition of a gradient, without copying it.

    DeepSpeed's `get_local_fp32_grad_for_param` is not used: it copies the partition to the
    accelerator, waits for the copy, and may first read a part of the optimizer from NVMe.
    """
    try:
        if optimizer.offload_optimizer:
            # Found as in `DeepSpeedZeroOptimizer_Stage3._get_fp32_grad_state_partition`.
            group, start, count = optimizer.grad_position[optimizer.get_param_id(parameter)]
            flat = optimizer.fp32_partitioned_groups_flat[group].grad
            return None if flat is None else flat.narrow(0, start, count)
        partitions = optimizer._DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition
        return partitions.get(parameter.ds_id)  # type: ignore[no-any-return]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnsupportedTensor(
            f"this version of DeepSpeed keeps ZeRO-3's gradients in an unknown place ({error!r})"
        ) from error


def _zero3_states(optimizer: Any, parameter: Any) -> dict[str, Any]:
    """Returns views of DeepSpeed's own tensors that hold the partitions of the states.

    DeepSpeed's `safe_get_local_optimizer_state` is not used: it copies the partition to the
    accelerator and waits for it. The place is that of `_get_fp32_opt_state_partition`.
    """
    if getattr(optimizer, "swap_optimizer", False):
        raise UnsupportedTensor(_STATES_ON_NVME)
    try:
        group, start, count = optimizer.grad_position[optimizer.get_param_id(parameter)]
        flat = optimizer.fp32_partitioned_groups_flat[group]
        return _narrowed(torch_states(optimizer.optimizer, flat), flat, start, count)
    except _UNKNOWN_PLACE as error:
        raise UnsupportedTensor(f"{_UNKNOWN_STATES.format(3)} ({error!r})") from error


def _narrowed(states: Mapping[str, Any], flat: Tensor, start: int, count: int) -> dict[str, Any]:
    """Returns a parameter's part of the states of a flat tensor of many parameters."""
    return {
        name: state.narrow(0, start, count)
        if isinstance(state, Tensor) and state.shape == flat.shape
        else state
        for name, state in states.items()
    }


def _spans_all_ranks(group: Any) -> bool:
    return group is None or dist.get_world_size(group) == dist.get_world_size()
