"""DeepSpeed: gradients partitioned by ZeRO-1 and 2, parameters too by ZeRO-3.

DeepSpeed is never imported here; its parameters are known by the attributes it gives them. All of
them are read in this file. Seen in deepspeed 0.16 to 0.19.
"""

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from tbtrainer.sharding.adapter import NotServed, ShardAdapter, why_kind_not_known

_ON_A_PART_OF_THE_RANKS = (
    "DeepSpeed partitions over a part of the ranks (MiCS, tensor or expert parallelism), and what "
    "the others hold is not known"
)


def deepspeed_adapters(model: nn.Module, is_world_process_zero: bool) -> list[ShardAdapter]:
    """Returns the adapters of the parameters that DeepSpeed partitions, or nothing without it."""
    parameters = list(model.parameters())
    if any(hasattr(parameter, "ds_tensor") for parameter in parameters):
        return [Zero3Adapter()]
    if any(hasattr(parameter, "_hp_mapping") for parameter in parameters):
        stage = getattr(model, "zero_optimization_stage", lambda: 1)()
        optimizer = getattr(model, "optimizer", None)
        problem = None
        if getattr(optimizer, "round_robin_gradients", False):
            # Fragments are looked up in the order of the parameters, but stored in another.
            problem = (
                "DeepSpeed mistakes one for another with round_robin_gradients (seen in 0.19.8)"
            )
        return [PartitionedGradientsAdapter(f"zero{int(stage)}", is_world_process_zero, problem)]
    return []


class PartitionedGradientsAdapter:
    """ZeRO-1, ZeRO-2 and the bfloat16 optimizer: whole parameters, partitioned gradients.

    Gradients exist between the backward pass and the end of `engine.step` only.

    Args:
        mode: `"zero1"` and so on, after the stage.
        is_world_process_zero: Whether this rank counts the parameters.
        gradient_problem: Why no gradient can be read, or `None`; the same on every rank.
    """

    def __init__(
        self, mode: str, is_world_process_zero: bool, gradient_problem: str | None = None
    ) -> None:
        self.mode = mode
        self._counts_parameters = is_world_process_zero
        self._gradient_problem = gradient_problem

    def serves(self, parameter: Tensor) -> bool:
        """Whether an optimizer partition holds the gradient: frozen parameters have none."""
        return hasattr(parameter, "_hp_mapping")

    def why_not_served(self, parameter: Tensor) -> str | None:
        """Says that the partition does not span all ranks."""
        if not _spans_all_ranks(getattr(parameter, "_dp_group", None)):
            return _ON_A_PART_OF_THE_RANKS
        return why_kind_not_known(parameter)

    def whole(self, parameter: Tensor) -> Tensor:
        """The parameter, which every rank holds."""
        return parameter.detach()

    def global_count(self, parameter: Tensor) -> int:
        """Elements of the parameter, and of its whole gradient."""
        return parameter.numel()

    def parameter_part(self, parameter: Tensor) -> Tensor | None:
        """The parameter on world rank zero, `None` elsewhere."""
        return parameter.detach() if self._counts_parameters else None

    def gradient_part(self, parameter: Tensor) -> Tensor | None:
        """The fragment of the gradient that belongs to this rank's optimizer partition."""
        if self._gradient_problem is not None:
            raise NotServed(self._gradient_problem)
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:  # The parameter lies in other ranks' partitions.
            return None
        try:
            fragment = mapping.get_lp_grad_fragment(parameter._index_in_param_group)  # type: ignore[attr-defined]
        except ValueError:  # Between `engine.step` and the next backward pass there is none.
            return None
        if fragment is None:
            return None
        address = mapping.lp_fragment_address
        if fragment.numel() == parameter.numel():
            # The bfloat16 optimizer keeps the whole gradient on every rank.
            fragment = fragment.reshape(-1)[address.start : address.start + address.numel]
        if fragment.numel() != address.numel:
            raise NotServed("DeepSpeed's fragment of it has another size than its place")
        return fragment.detach()  # type: ignore[no-any-return]


class Zero3Adapter:
    """ZeRO-3: every parameter and gradient is a flat partition with padding that means nothing."""

    mode = "zero3"

    def serves(self, parameter: Tensor) -> bool:
        """Whether ZeRO-3 partitioned the parameter."""
        return hasattr(parameter, "ds_tensor")

    def why_not_served(self, parameter: Tensor) -> str | None:
        """Names partitions that do not span all ranks, or that do not hold values in memory."""
        if not _spans_all_ranks(parameter.ds_process_group):  # type: ignore[attr-defined]
            return _ON_A_PART_OF_THE_RANKS
        partition = parameter.ds_tensor  # type: ignore[attr-defined]
        if hasattr(partition, "ds_quant_scale"):
            return "DeepSpeed keeps them quantised"
        if getattr(partition, "final_location", None) is not None:
            return "DeepSpeed keeps them on NVMe"
        return why_kind_not_known(parameter)

    def whole(self, parameter: Tensor) -> Tensor | None:
        """Nothing: the ranks hold different partitions."""
        return None

    def global_count(self, parameter: Tensor) -> int:
        """Elements of the whole tensor, without padding."""
        return int(parameter.ds_numel)  # type: ignore[attr-defined]

    def parameter_part(self, parameter: Tensor) -> Tensor | None:
        """This rank's partition without its padding."""
        return _without_padding(parameter, parameter.ds_tensor.detach())  # type: ignore[attr-defined]

    def gradient_part(self, parameter: Tensor) -> Tensor | None:
        """The same of the gradient, between the backward pass and the end of `engine.step`."""
        optimizer = getattr(parameter, "_z3_optimizer", None)
        if optimizer is None or not parameter.requires_grad:
            return None
        return _without_padding(parameter, _zero3_gradient(optimizer, parameter).detach())


def _zero3_gradient(optimizer: Any, parameter: Tensor) -> Tensor:
    """This rank's partition of the gradient, as it is stored where that is possible."""
    partitions = getattr(
        optimizer, "_DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition", None
    )
    if partitions is not None and not getattr(optimizer, "offload_optimizer", True):
        partition = partitions.get(parameter.ds_id)  # type: ignore[attr-defined]
        if partition is not None:
            return partition  # type: ignore[no-any-return]
    # What the public `deepspeed.utils.safe_get_local_grad` calls: a copy in float32.
    get_local_gradient = getattr(optimizer, "get_local_fp32_grad_for_param", None)
    if get_local_gradient is None:
        raise NotServed("this version of DeepSpeed keeps ZeRO-3's gradients in another way")
    return get_local_gradient(parameter)  # type: ignore[no-any-return]


def _without_padding(parameter: Tensor, partition: Tensor) -> Tensor:
    """The elements of a partition that are elements of the tensor."""
    rank = dist.get_rank(parameter.ds_process_group)  # type: ignore[attr-defined]
    size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
    real = max(0, min(size, parameter.ds_numel - rank * size))  # type: ignore[attr-defined]
    return partition.reshape(-1)[:real]


def _spans_all_ranks(group: Any) -> bool:
    return group is None or dist.get_world_size(group) == dist.get_world_size()
