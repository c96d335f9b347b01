"""Makes accelerate's FSDP run on gloo: for tests only.

accelerate chooses FSDP on accelerators only. On CPUs it runs DDP instead, without a warning.
"""

from typing import Any

import torch
import torch.distributed.fsdp._init_utils as fsdp1_init
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

_original_init = AcceleratorState.__init__
_original_device = fsdp1_init._get_device_from_device_id


def _init(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    """Sets what `AcceleratorState.__init__` of accelerate 1.15 sets for CUDA and not for CPUs."""
    _original_init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        if self.mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self.mixed_precision)
        self.fsdp_plugin = fsdp_plugin


def _device(device_id: Any, *args: Any, **kwargs: Any) -> Any:
    """Returns no device for a CPU, which FSDP1 of torch 2.13 would look for as `cpu:0`."""
    if isinstance(device_id, torch.device) and device_id.type == "cpu":
        return None
    return _original_device(device_id, *args, **kwargs)


def allow_fsdp_on_cpu() -> None:
    """Patches accelerate and FSDP1 in this process."""
    AcceleratorState.__init__ = _init
    fsdp1_init._get_device_from_device_id = _device
