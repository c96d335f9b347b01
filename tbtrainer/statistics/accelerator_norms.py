"""Norms of tensors on an accelerator, which is not waited for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tbtrainer.statistics.devices import has_float64
from tbtrainer.statistics.norm_values import PLAIN_DTYPES, values_of

# Elements that are added up at a time where there is no float64.
_LANES = 128


class AcceleratorNorms:
    """Norms of tensors on an accelerator, without waiting for it.

    Args:
        tensors: Of the first step, by place in the list.
        source: Where they are.
        device: Where `index` is put.
    """

    def __init__(
        self, tensors: dict[int, Tensor], source: torch.device, device: torch.device
    ) -> None:
        self._dtype = torch.float64 if has_float64(source) else torch.float32
        self.unit = 1.0 if self._dtype == torch.float64 else 2.0**20
        by_dtype: dict[torch.dtype, list[int]] = {}
        single: list[int] = []
        for place, tensor in tensors.items():
            is_plain = tensor.layout == torch.strided and tensor.dtype in PLAIN_DTYPES
            if is_plain and self._dtype == torch.float64:
                by_dtype.setdefault(tensor.dtype, []).append(place)
            else:
                single.append(place)
        self._together = list(by_dtype.values())
        self._single = single
        places = [place for chosen in self._together for place in chosen] + single
        self.index = torch.tensor(places, device="cpu").to(device, non_blocking=True)
        self._norms = torch.empty(len(places), dtype=self._dtype, device=source)
        self._places = list(self._norms.unbind())

    def norms(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Returns the norms in units of `unit`, in the order of `index`."""
        found: list[Tensor] = []
        for chosen in self._together:
            parts: list[Tensor] = [tensors[place] for place in chosen]  # type: ignore[misc]
            # `torch.nn.utils.clip_grad_norm_` calls the same function (seen in torch 2.4 to 2.13).
            # With this dtype it adds up in float64, whatever the dtype of the tensors.
            found += torch._foreach_norm(parts, 2, torch.float64)
        for place in self._single:
            values = values_of(tensors[place])  # type: ignore[arg-type]
            if self._dtype == torch.float64:
                found.append(torch.linalg.vector_norm(values.to(torch.float64)))
            else:
                found.append(_float32_norm(values.to(torch.float32), self.unit))
        torch._foreach_copy_(self._places, found)
        return self._norms


def _float32_norm(values: Tensor, unit: float) -> Tensor:
    """Norm in units of `unit`, in float32 alone: scaled, so that no square overflows or vanishes.

    The norm of some norms is that of all elements, so few numbers at a time are added up.
    """
    flat = values.reshape(-1)
    if flat.numel() == 0:
        return flat.sum()
    largest = flat.abs().amax()
    scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    flat = flat / scale
    while flat.numel() > _LANES:
        whole = flat.numel() // _LANES * _LANES
        norms = torch.linalg.vector_norm(flat[:whole].view(-1, _LANES), dim=1)
        flat = torch.cat([norms, flat[whole:]])
    norm: Tensor = torch.linalg.vector_norm(flat)
    return norm * (scale / unit)
