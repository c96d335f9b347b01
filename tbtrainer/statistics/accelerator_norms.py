"""Norms of tensors on an accelerator, computed without waiting for it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tbtrainer.statistics.devices import has_float64
from tbtrainer.statistics.norm_values import PLAIN_DTYPES, values_of

# Elements whose squares are added up at a time on a device without float64.
_LANES = 128


class AcceleratorNorms:
    """Computes norms of tensors on an accelerator without waiting for it.

    Args:
        tensors: The tensors of the first step, by position in the list.
        source: The device that the tensors are on.
        device: The device on which `index` is put.

    Attributes:
        unit: The norms are given in multiples of this number.
        index: Position in the list of each norm that `norms` returns. int64, shape (tensors,).
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
        """Returns the norms in multiples of `unit`, in the order of `index`."""
        found: list[Tensor] = []
        for chosen in self._together:
            parts: list[Tensor] = [tensors[place] for place in chosen]  # type: ignore[misc]
            # `torch.nn.utils.clip_grad_norm_` calls the same function (seen in torch 2.4 to 2.13).
            # The last argument makes it add up in float64, whatever the dtype of the tensors is.
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
    """Returns the norm in multiples of `unit`, computed in float32 alone.

    The elements are divided by the largest one, so that no square overflows. The norm of the norms
    of parts is the norm of the whole, so only `_LANES` squares are added up at a time.
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
