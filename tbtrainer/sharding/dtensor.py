"""`DTensor` parameters: FSDP2, HSDP, tensor parallel, and meshes of several dimensions."""

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from tbtrainer.sharding.adapter import ShardAdapter, UnsupportedTensor, unsupported_tensor_type
from tbtrainer.sharding.torch_states import check_same_shape, torch_states


def dtensor_adapters(model: nn.Module) -> list[ShardAdapter]:
    """Returns the adapter of `DTensor` parameters; an empty list without a process group.

    The parameters are resharded here; see `reshard`.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return []
    reshard(model)
    return [DTensorAdapter()]


def reshard(model: nn.Module) -> None:
    """Shards the parameters that FSDP2 has left gathered, as the next backward pass would do.

    After a forward pass without a backward pass, as in an evaluation, FSDP2 leaves the parameters
    of the outermost module gathered. The model then lists these instead of the sharded ones that
    are trained. This needs no communication, and does nothing without a process group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    sharded_again = _fsdp2_module_type()
    for module in model.modules():
        if isinstance(module, sharded_again):
            module.reshard()  # type: ignore[operator]


def has_fsdp2_modules(model: nn.Module) -> bool:
    """Returns whether FSDP2 shards some parameters; false without a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    return any(isinstance(module, _fsdp2_module_type()) for module in model.modules())


class DTensorAdapter:
    """`DTensor`: each rank counts its local part, and one rank counts replicated parts.

    Along a mesh dimension on which a tensor is replicated, only the first rank counts it. If there
    are several meshes with replicas of a tensor, only the mesh with world rank zero counts it.
    """

    mode = "dtensor"
    is_sharded = True
    gradient_problem: str | None = None
    copies_gradients = False

    def __init__(self) -> None:
        self._dtensor = _dtensor_type()
        self._counted: dict[tuple[object, object], bool] = {}
        # The last mesh, placements and result. Most tensors share them, and hashing a mesh is slow.
        self._last: tuple[object, object, bool] = (None, None, False)
        # The last `_spec` of each parameter's gradient, by the parameter's `id`, and whether this
        # rank counts the part. Most gradients have the same object at every step.
        self._last_specs: dict[int, tuple[object, bool]] = {}

    def supports(self, parameter: Tensor) -> bool:
        """Returns whether the parameter is a `DTensor`."""
        return isinstance(parameter, self._dtensor)

    def unsupported_reason(self, parameter: Tensor) -> str | None:
        """Refuses partial sums, and unknown subclasses as local tensors."""
        if any(placement.is_partial() for placement in parameter.placements):  # type: ignore[attr-defined]
            return "they are partial sums, and only the sum over ranks is the tensor"
        return unsupported_tensor_type(self._local(parameter))

    def whole(self, parameter: Tensor) -> Tensor | None:
        """Returns `None`: the mesh says whether ranks hold equal parts, so none are compared."""
        return None

    def global_count(self, parameter: Tensor) -> int:
        """Returns the number of elements of the `DTensor`, which is the whole parameter."""
        return parameter.numel()

    def part(self, parameter: Tensor, tensor: Tensor) -> Tensor | None:
        """Returns the local part of a `DTensor`; `None` if another rank counts it.

        The placements of the tensor may differ from those of its parameter.
        """
        if not isinstance(tensor, self._dtensor):
            raise UnsupportedTensor(
                f"it is a {type(tensor).__name__}, and the parameter is a DTensor"
            )
        return self._local(tensor) if self._counts(tensor) else None

    def gradient_part(self, parameter: Tensor) -> Tensor | None:
        """Returns the local part of the gradient.

        It is `None` if there is no gradient, or if another rank counts the part.
        """
        gradient = parameter.grad
        if gradient is None:
            return None
        # Holds the mesh and the placements. Seen in torch 2.4 to 2.13; public is no single object.
        spec = getattr(gradient, "_spec", None)
        last_spec, is_counted = self._last_specs.get(id(parameter), (None, False))
        if spec is None or spec is not last_spec:
            part = self.part(parameter, gradient)
            self._last_specs[id(parameter)] = (spec, part is not None)
            return part
        return self._local(gradient) if is_counted else None

    def optimizer_states(self, parameter: Tensor, optimizer: Any) -> Mapping[str, Any]:
        """Returns the optimizer's states of a parameter, as this rank holds them."""
        return torch_states(optimizer, parameter)

    def state_part(self, parameter: Tensor, state: Tensor) -> Tensor | None:
        """Returns the local part of a state of the shape of its parameter."""
        check_same_shape(parameter, state)
        return self.part(parameter, state)

    def _counts(self, tensor: Tensor) -> bool:
        """Returns whether this rank counts its local part of a `DTensor`."""
        mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
        last_mesh, last_placements, is_counted = self._last
        if mesh is not last_mesh or placements != last_placements:
            if (mesh, placements) not in self._counted:
                self._counted[mesh, placements] = _is_counted(mesh, placements)
            is_counted = self._counted[mesh, placements]
            self._last = (mesh, placements, is_counted)
        return is_counted

    def _local(self, tensor: Tensor) -> Tensor:
        return _local(tensor)


def is_dtensor(tensor: Tensor) -> bool:
    """Returns whether a tensor is a `DTensor`; false without a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    return isinstance(tensor, _dtensor_type())


def local_part(tensor: Tensor) -> Tensor | None:
    """Returns the part that this rank counts of a `DTensor` that every mesh has one of.

    Such is the output of a module: other meshes hold those of other batches. Along a mesh dimension
    on which it is replicated, only the first rank counts it.

    Returns:
        The local part, detached; `None` if another rank counts it.

    Raises:
        UnsupportedTensor: It is a partial sum.
    """
    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    return _local(tensor) if _is_first_replica(mesh, placements) else None


def _local(tensor: Tensor) -> Tensor:
    # `to_local()` takes longer, and with autograd it is recorded. Seen in torch 2.4 to 2.13.
    local: Tensor | None = getattr(tensor, "_local_tensor", None)
    if local is None:
        local = tensor.to_local()  # type: ignore[attr-defined]
    if type(local) is not Tensor:
        # The result of a running collective is a tensor subclass with a method `wait`.
        wait = getattr(local, "wait", None)
        local = local if wait is None else wait()
    return local.detach() if local.requires_grad else local


def _is_counted(mesh: object, placements: object) -> bool:
    """Returns whether this rank counts its local part of a parameter with these placements."""
    is_first = _is_first_replica(mesh, placements)
    return is_first and bool((mesh.mesh == 0).any())  # type: ignore[attr-defined]


def _is_first_replica(mesh: object, placements: object) -> bool:
    """Returns whether this rank is the first of those with the same part, within its mesh."""
    if any(placement.is_partial() for placement in placements):  # type: ignore[attr-defined]
        raise UnsupportedTensor("it is a partial sum, and only the sum over ranks is the tensor")
    coordinate = mesh.get_coordinate()  # type: ignore[attr-defined]
    if coordinate is None:
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
