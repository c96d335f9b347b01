"""An accelerator that exists in tests only: tensors that claim a device and compute on the CPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

# Operations whose results the host has to know: on a GPU it waits for them.
_READ_BY_THE_HOST = (
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"),
    *("bincount", "histc", "unique", "_unique", "_unique2", "unique_dim", "unique_consecutive"),
)


class AcceleratorTensor(Tensor):
    """A tensor on the accelerator.

    Args:
        inner: The same values on the CPU.
        device: What it claims to be on.
    """

    inner: Tensor

    @staticmethod
    def __new__(
        cls: "type[AcceleratorTensor]", inner: Tensor, device: torch.device
    ) -> "AcceleratorTensor":
        tensor = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
        )
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuses to work outside of the mode."""
        raise RuntimeError(f"{func} outside of the accelerator's mode")


class Accelerator(TorchDispatchMode):
    """While on, a device exists whose non-blocking copies to the CPU never arrive.

    Args:
        name: Type of the device.
        has_float64: Whether it holds float64; if not, making such a tensor raises, as on MPS.

    Attributes:
        may_be_waited_for: Whether the host may wait for the device. If not, an operation that waits
            raises `AssertionError`.
    """

    def __init__(self, name: str, has_float64: bool = True) -> None:
        super().__init__()
        self.device = torch.device(name, 0)
        self._has_float64 = has_float64
        self.may_be_waited_for = True

    def put(self, tensor: Tensor) -> Tensor:
        """Returns the tensor on the accelerator."""
        if tensor.dtype == torch.float64 and not self._has_float64:
            raise TypeError(f"{self.device.type} does not support float64")
        return AcceleratorTensor(tensor, self.device)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Computes on the CPU and returns tensors on the accelerator, or on the CPU if copied."""
        kwargs = dict(kwargs or {})
        operands = [a for a in torch.utils._pytree.tree_leaves((args, kwargs))]
        on_accelerator = any(isinstance(a, AcceleratorTensor) for a in operands)
        if on_accelerator and not self.may_be_waited_for:
            assert not _waits(func, operands, kwargs), f"{func} waits for the device"
        target = kwargs.get("device")
        if target is not None:
            on_accelerator_after = torch.device(target).type == self.device.type
            kwargs["device"] = torch.device("cpu")
        else:
            on_accelerator_after = on_accelerator
        args, kwargs = tree_map(
            lambda a: a.inner if isinstance(a, AcceleratorTensor) else a, (args, kwargs)
        )
        result = func(*args, **kwargs)
        if on_accelerator_after:
            return tree_map(lambda r: self.put(r) if isinstance(r, Tensor) else r, result)
        if on_accelerator and kwargs.get("non_blocking") and isinstance(result, Tensor):
            # What a copy in flight looks like to whoever reads it too early.
            return torch.full_like(result, torch.nan if result.is_floating_point() else -(2**40))
        return result


def _waits(func: Any, operands: list[Any], kwargs: dict[str, Any]) -> bool:
    """Whether an operation on a GPU waits for it."""
    name = func.overloadpacket.__name__
    if name in ("index", "index_put", "index_put_"):
        # The number of values that are true is the size of the result, or of what is put there.
        kinds = (torch.bool, torch.uint8)
        return any(isinstance(a, Tensor) and a.dtype in kinds for a in operands[1:])
    if name == "repeat_interleave":
        return not any(isinstance(a, int) for a in operands)
    if name in ("_to_copy", "copy_"):
        target = kwargs.get("device") or (operands[0].device if name == "copy_" else None)
        to_host = target is not None and torch.device(target).type == "cpu"
        return to_host and not kwargs.get("non_blocking", False)
    return name in _READ_BY_THE_HOST
