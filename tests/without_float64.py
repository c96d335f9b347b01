"""A device without float64, such as Apple's MPS, for which the CPU stands."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tbtrainer.statistics import accelerator_norms, norms

CPU = torch.device("cpu")


class Refusing(TorchDispatchMode):
    """Refuses every tensor in float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and looks at what it returns."""
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float64:
                raise TypeError(f"{func}: the device has no float64")
        return found


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets norms take the CPU for an accelerator without float64."""
    for module in (norms, accelerator_norms):
        monkeypatch.setattr(module, "has_float64", lambda device: False)
    monkeypatch.setattr(norms, "loaded_library", lambda: None)
    monkeypatch.setattr(
        norms,
        "CpuNorms",
        lambda found, device: accelerator_norms.AcceleratorNorms(found, CPU, device),
    )
