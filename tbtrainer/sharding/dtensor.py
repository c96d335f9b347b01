"""`DTensor` parameters: FSDP2, HSDP, tensor parallel, and meshes of several dimensions."""

import torch.distributed as dist
from torch import Tensor, nn

from tbtrainer.sharding.adapter import NotServed, ShardAdapter, why_kind_not_known


def dtensor_adapters(model: nn.Module) -> list[ShardAdapter]:
    """Returns the adapter of `DTensor` parameters, or nothing where no process group is.

    FSDP2 leaves the outermost parameters gathered after an evaluation, and the model then names
    these instead of the sharded ones that are trained. They are sharded again, as the next
    backward pass would do; no communication is needed for it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return []
    sharded_again = _fsdp2_module_type()
    for module in model.modules():
        if isinstance(module, sharded_again):
            module.reshard()  # type: ignore[operator]
    return [DTensorAdapter()]


class DTensorAdapter:
    """A rank counts its local part, unless another rank holds the same one.

    Of the ranks along a mesh dimension on which a tensor is replicated, the first one counts. A
    tensor on a part of the ranks, such as one of several equal meshes, is counted on the mesh that
    world rank zero belongs to.
    """

    mode = "dtensor"

    def __init__(self) -> None:
        self._dtensor = _dtensor_type()
        self._counted: dict[tuple[object, object], bool] = {}

    def serves(self, parameter: Tensor) -> bool:
        """Whether the parameter is a `DTensor`."""
        return isinstance(parameter, self._dtensor)

    def why_not_served(self, parameter: Tensor) -> str | None:
        """Names what is not a shard: partial sums, and locals whose bytes are not their values."""
        if any(placement.is_partial() for placement in parameter.placements):  # type: ignore[attr-defined]
            return "they are partial sums, which only together make a tensor"
        return why_kind_not_known(self._local(parameter))

    def whole(self, parameter: Tensor) -> Tensor | None:
        """Nothing: the ranks differ, or are known to hold the same."""
        return None

    def global_count(self, parameter: Tensor) -> int:
        """Elements of the whole tensor, which a `DTensor` says itself."""
        return parameter.numel()

    def parameter_part(self, parameter: Tensor) -> Tensor | None:
        """The local part, or `None` where another rank counts it."""
        return self._part(parameter)

    def gradient_part(self, parameter: Tensor) -> Tensor | None:
        """The local part of the gradient, which may be placed in another way than the parameter."""
        return None if parameter.grad is None else self._part(parameter.grad)

    def _part(self, tensor: Tensor) -> Tensor | None:
        if not isinstance(tensor, self._dtensor):
            raise NotServed(f"{type(tensor).__name__} is no DTensor, though the parameter is one")
        key = (tensor.device_mesh, tensor.placements)  # type: ignore[attr-defined]
        if key not in self._counted:
            self._counted[key] = _is_counted(*key)
        return self._local(tensor) if self._counted[key] else None

    def _local(self, tensor: Tensor) -> Tensor:
        local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
        # A result that is still being communicated is a tensor of its own type, with this method.
        wait = getattr(local, "wait", None)
        return (local if wait is None else wait()).detach()


def _is_counted(mesh: object, placements: object) -> bool:
    """Whether this rank counts what it holds of a tensor with this placement."""
    if any(placement.is_partial() for placement in placements):  # type: ignore[attr-defined]
        raise NotServed("it is a partial sum, which only together with other ranks' is a tensor")
    coordinate = mesh.get_coordinate()  # type: ignore[attr-defined]
    if coordinate is None or not (mesh.mesh == 0).any():  # type: ignore[attr-defined]
        return False
    return all(
        index == 0
        for index, placement in zip(coordinate, placements, strict=True)  # type: ignore[call-overload]
        if placement.is_replicate()
    )


def _dtensor_type() -> type:
    try:
        from torch.distributed.tensor import DTensor
    except ImportError:  # torch 2.4
        from torch.distributed._tensor import DTensor
    return DTensor


def _fsdp2_module_type() -> type:
    try:
        from torch.distributed.fsdp import FSDPModule
    except ImportError:  # torch 2.4 and 2.5
        from torch.distributed._composable.fsdp import FSDPModule
    return FSDPModule
