"""Norms of the same tensors at every step: what does not change between steps is planned once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tbtrainer.statistics.accelerator_norms import AcceleratorNorms
from tbtrainer.statistics.cpu_norms import CpuNorms
from tbtrainer.statistics.devices import has_float64
from tbtrainer.statistics.norm_values import unreadable_reason


class TensorNorms:
    """L2 norms of a list of tensors that comes again at every step.

    Right to 1e-6 for every dtype, layout and strides, for values from 1e-24 to the largest float32.
    Which tensors are read together, and where their norms are put, is planned once, and planned
    again when the tensors are of another kind: presence, dtype, layout, size or device. Nothing
    waits for an accelerator, except that sparse tensors that are not coalesced are.

    Args:
        count: Tensors of a list.
        device: Where the norms are put.

    Attributes:
        unit: The norms are given in units of this: of 1, and of 2**20 on a device without float64,
            where the norm of a tensor of the largest float32 values would be infinite.
        dtype: Of the norms: float64, or float32 on a device without it.
        unreadable: Tensors of the last list that have no norm, with the reason, by place.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.dtype = torch.float64 if has_float64(device) else torch.float32
        self.unit = 1.0 if self.dtype == torch.float64 else 2.0**20
        self.unreadable: dict[int, str] = {}
        self._count = count
        self._device = device
        self._absent: list[bool] | None = None
        self._readers: list[CpuNorms | AcceleratorNorms] = []

    @torch.no_grad()
    def into(self, out: Tensor, tensors: Sequence[Tensor | None]) -> None:
        """Measures tensors.

        Args:
            out: Takes the norms in units of `unit`, 0 for `None`, empty and unreadable tensors. Of
                the dtype and device of this object, shape (count,).
            tensors: As many as `count`.
        """
        out.zero_()
        absent = [tensor is None for tensor in tensors]
        if absent == self._absent and not self._may_be_readable_now(tensors):
            try:
                return self._read(out, tensors)
            except Exception:  # Of another kind than planned; or a real error, seen again below.
                out.zero_()
        self._absent = None
        self._plan(tensors)
        self._read(out, tensors)
        self._absent = absent

    def _may_be_readable_now(self, tensors: Sequence[Tensor | None]) -> bool:
        return any(unreadable_reason(tensors[place]) is None for place in self.unreadable)

    def _plan(self, tensors: Sequence[Tensor | None]) -> None:
        self.unreadable = {}
        by_device: dict[torch.device, dict[int, Tensor]] = {}
        for place, tensor in enumerate(tensors):
            if tensor is None:
                continue
            reason = unreadable_reason(tensor)
            if reason is not None:
                self.unreadable[place] = reason
            elif tensor.numel() > 0:
                by_device.setdefault(tensor.device, {})[place] = tensor
        self._readers = [
            CpuNorms(found, self._device)
            if device.type == "cpu"
            else AcceleratorNorms(found, device, self._device)
            for device, found in by_device.items()
        ]

    def _read(self, out: Tensor, tensors: Sequence[Tensor | None]) -> None:
        for reader in self._readers:
            norms = reader.norms(tensors)
            if self.unit != reader.unit:
                norms = norms * (reader.unit / self.unit)
            # A copy to main memory is waited for, as nothing else would.
            norms = norms.to(out.device, self.dtype, non_blocking=out.device.type != "cpu")
            out.index_copy_(0, reader.index, norms)
