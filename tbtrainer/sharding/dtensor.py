"""`DTensor` parameters: FSDP2, HSDP, tensor parallel, and meshes of several dimensions."""

import torch.distributed as dist
from torch import Tensor, nn

from tbtrainer.sharding.adapter import ShardAdapter, UnsupportedTensor, unsupported_tensor_type


def dtensor_adapters(model: nn.Module) -> list[ShardAdapter]:
    """Returns the adapter of `DTensor` parameters; an empty list without a process group.

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
    is_sharded = True
    gradient_problem: str | None = None
    copies_gradients = False

    def __init__(self) -> None:
        self._dtensor = _dtensor_type()
        self._counted: dict[tuple[object, object], bool] = {}
        # The answer of before, for the many tensors that are placed alike: hashing a mesh is slow.
        self._last: tuple[object, object, bool] = (None, None, False)

    def supports(self, parameter: Tensor) -> bool:
        """Whether the parameter is a `DTensor`."""
        return isinstance(parameter, self._dtensor)

    def unsupported_reason(self, parameter: Tensor) -> str | None:
        """Names partial sums, and local tensors whose bytes are not their values."""
        if any(placement.is_partial() for placement in parameter.placements):  # type: ignore[attr-defined]
            return "they are partial sums, which only together make a tensor"
        return unsupported_tensor_type(self._local(parameter))

    def whole(self, parameter: Tensor) -> Tensor | None:
        """Returns `None`: the ranks hold different parts, or a mesh knows that they are equal."""
        return None

    def global_count(self, parameter: Tensor) -> int:
        """Elements of the whole parameter, which are those of the `DTensor`."""
        return parameter.numel()

    def part(self, parameter: Tensor, tensor: Tensor) -> Tensor | None:
        """The local part of a `DTensor`, `None` where another rank counts it.

        The tensor may be placed in another way than its parameter.
        """
        if not isinstance(tensor, self._dtensor):
            raise UnsupportedTensor(
                f"{type(tensor).__name__} is no DTensor, though the parameter is one"
            )
        mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
        last_mesh, last_placements, is_counted = self._last
        if mesh is not last_mesh or placements != last_placements:
            if (mesh, placements) not in self._counted:
                self._counted[mesh, placements] = _is_counted(mesh, placements)
            is_counted = self._counted[mesh, placements]
            self._last = (mesh, placements, is_counted)
        return self._local(tensor) if is_counted else None

    def gradient_part(self, parameter: Tensor) -> Tensor | None:
        """The local part of the gradient, `None` where another rank counts it."""
        gradient = parameter.grad
        return None if gradient is None else self.part(parameter, gradient)

    def _local(self, tensor: Tensor) -> Tensor:
        local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
        if type(local) is not Tensor:
            # A result that is still being communicated is a tensor subclass with this method.
            wait = getattr(local, "wait", None)
            local = local if wait is None else wait()
        return local.detach() if local.requires_grad else local


def _is_counted(mesh: object, placements: object) -> bool:
    """Whether this rank counts what it holds of a tensor with this placement."""
    if any(placement.is_partial() for placement in placements):  # type: ignore[attr-defined]
        raise UnsupportedTensor(
            "it is a partial sum, which only together with those of other ranks makes a tensor"
        )
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
