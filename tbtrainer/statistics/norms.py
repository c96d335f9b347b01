"""Norms of a list of tensors that is measured at every step."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from tbtrainer.statistics.accelerator_norms import AcceleratorNorms
from tbtrainer.statistics.compiled_norms import CompiledNorms, is_readable, loaded_library
from tbtrainer.statistics.cpu_norms import CpuNorms
from tbtrainer.statistics.devices import has_float64
from tbtrainer.statistics.norm_values import unreadable_reason

_Reader: TypeAlias = CompiledNorms | CpuNorms | AcceleratorNorms


class TensorNorms:
    """Computes the L2 norms of a list of tensors at every step.

    The relative error is below 1e-6 for every dtype, layout and stride, and for values from 1e-24
    to the largest float32. The first call plans which tensors are read together and where their
    norms are put. The plan is made anew when a tensor appears, disappears, or changes its dtype,
    layout, size or device. The host waits for an accelerator only to coalesce sparse tensors.

    Args:
        count: Number of tensors in the list.
        device: The device on which the norms are put.

    Attributes:
        unit: The norms are given in multiples of this number. It is 1, or 2**20 on a device without
            float64, because norms of the largest float32 values would overflow there.
        dtype: Dtype of the norms: float64, or float32 on a device without float64.
        unreadable: The reason of each tensor of the last list that has no norm, by its position.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.dtype = torch.float64 if has_float64(device) else torch.float32
        self.unit = 1.0 if self.dtype == torch.float64 else 2.0**20
        self.unreadable: dict[int, str] = {}
        self._count = count
        self._device = device
        self._is_accelerator = device.type != "cpu"
        # Positions of the tensors that the plan does not read; `None` without a plan.
        self._passed_over: list[int] | None = None
        self._readers: list[_Reader] = []
        # Whether one reader reads all tensors, in their order.
        self._is_in_order = False

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no plan: a plan may hold addresses of the original's memory."""
        return {**vars(self), "_passed_over": None, "_readers": []}

    def into(self, out: Tensor, tensors: Sequence[Tensor | None]) -> None:
        """Computes the norms of one step.

        Args:
            out: Receives the norms in multiples of `unit`. A tensor that is `None`, empty or
                unreadable has the norm 0. `dtype`, shape (count,), on the device of this object.
            tensors: The list of this step, `count` entries.
        """
        if self._passed_over is not None and self._is_of_plan(tensors, self._passed_over):
            try:
                if self._passed_over:
                    out.zero_()
                return self._read(out, tensors)
            except Exception:
                # Most likely a tensor is not of the planned kind. Another error occurs again below.
                pass
        out.zero_()
        self._passed_over = None
        passed_over = self._plan(tensors)
        self._read(out, tensors)
        self._passed_over = passed_over

    def _is_of_plan(self, tensors: Sequence[Tensor | None], passed_over: list[int]) -> bool:
        """Returns whether the tensors that the plan does not read still have no norm.

        A tensor that the plan reads is not looked at: reading it fails if its kind has changed.
        """
        for place in passed_over:
            tensor = tensors[place]
            reason = self.unreadable.get(place)
            if tensor is None:
                if reason is not None:
                    return False
            elif unreadable_reason(tensor) != reason or (reason is None and tensor.numel() > 0):
                return False
        return True

    def _plan(self, tensors: Sequence[Tensor | None]) -> list[int]:
        """Plans how the tensors are read, and returns the positions of those that are not."""
        self.unreadable = {}
        passed_over: list[int] = []
        by_device: dict[torch.device, dict[int, Tensor]] = {}
        for place, tensor in enumerate(tensors):
            reason = unreadable_reason(tensor)
            if reason is not None:
                self.unreadable[place] = reason
            if tensor is None or reason is not None or tensor.numel() == 0:
                passed_over.append(place)
            else:
                by_device.setdefault(tensor.device, {})[place] = tensor
        self._readers = []
        self._is_in_order = False
        for device, found in by_device.items():
            if device.type == "cpu":
                self._readers += _cpu_readers(found, self._device)
            else:
                self._readers.append(AcceleratorNorms(found, device, self._device))
        if not passed_over and len(self._readers) == 1:
            self._is_in_order = self._readers[0].is_in_order
        return passed_over

    def _read(self, out: Tensor, tensors: Sequence[Tensor | None]) -> None:
        for reader in self._readers:
            norms = reader.norms(tensors)
            if self.unit != reader.unit:
                norms = norms * (reader.unit / self.unit)
            # A copy to main memory has to be waited for; see `moved`.
            norms = norms.to(self._device, self.dtype, non_blocking=self._is_accelerator)
            if self._is_in_order:
                out.copy_(norms)
            else:
                out.index_copy_(0, reader.index, norms)


def _cpu_readers(tensors: dict[int, Tensor], device: torch.device) -> list[_Reader]:
    """Returns the readers of tensors in main memory: the compiled one, and PyTorch for the rest."""
    readers: list[_Reader] = []
    library = loaded_library()
    if library is not None:
        readable = {place: tensor for place, tensor in tensors.items() if is_readable(tensor)}
        tensors = {place: tensor for place, tensor in tensors.items() if place not in readable}
        if readable:
            readers.append(CompiledNorms(readable, device, library))
    if tensors:
        readers.append(CpuNorms(tensors, device))
    return readers
