"""Norms of tensors on an accelerator, computed without waiting for it."""

from collections.abc import Sequence
from operator import itemgetter

import torch
from torch import Tensor

from tbtrainer.statistics.devices import has_float64
from tbtrainer.statistics.norm_values import PLAIN_DTYPES, KindChanged, values_of

# Elements whose squares are added up at a time on a device without float64.
_LANES = 128
# Most elements of a tensor that is read together with others on such a device, and of all of them.
_SMALL = 65_536
_BATCH = 2**20


class AcceleratorNorms:
    """Computes norms of tensors on an accelerator without waiting for it.

    Args:
        tensors: The tensors of the first step, by position in the list.
        source: The device that the tensors are on.
        device: The device on which `index` is put.

    Attributes:
        unit: The norms are given in multiples of this number.
        is_in_order: Whether `index` always ascends.
        index: Position in the list of each norm that `norms` returns. int64, shape (tensors,).
    """

    is_in_order = False

    def __init__(
        self, tensors: dict[int, Tensor], source: torch.device, device: torch.device
    ) -> None:
        self._dtype = torch.float64 if has_float64(source) else torch.float32
        self.unit = 1.0 if self._dtype == torch.float64 else 2.0**20
        groups = self._grouped(tensors)
        places = [place for group in groups for place in group]
        self.index = torch.tensor(places, device="cpu").to(device, non_blocking=True)
        self._norms = torch.empty(len(places), dtype=self._dtype, device=source)
        self._groups = [
            _Group(group, tensors[group[0]], norms, self.unit)
            for group, norms in zip(
                groups, self._norms.split([len(group) for group in groups]), strict=True
            )
        ]

    @torch.no_grad()
    def norms(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Returns the norms in multiples of `unit`, in the order of `index`."""
        for group in self._groups:
            group.read(tensors)
        return self._norms

    def _grouped(self, tensors: dict[int, Tensor]) -> list[list[int]]:
        """Returns the positions of tensors that are read together; some are alone in a group."""
        groups: dict[object, list[int]] = {}
        full: list[list[int]] = []
        for place, tensor in tensors.items():
            kind: object = place
            most = len(tensors)
            if tensor.layout == torch.strided and tensor.dtype in PLAIN_DTYPES:
                if self._dtype == torch.float64:
                    kind = tensor.dtype
                elif tensor.numel() <= _SMALL:
                    kind, most = (tensor.dtype, tensor.shape), _BATCH // tensor.numel()
            group = groups.setdefault(kind, [])
            group.append(place)
            if len(group) == most:
                full.append(groups.pop(kind))
        return full + list(groups.values())


class _Group:
    """Tensors of one device that are read together.

    Args:
        places: Their positions in the list. Without float64 they have one shape.
        first: The first of them at the first step.
        norms: Receives their norms.
        unit: The norms are given in multiples of this number.
    """

    def __init__(self, places: list[int], first: Tensor, norms: Tensor, unit: float) -> None:
        # Of one tensor, `itemgetter` would return the tensor instead of a tuple.
        self._chosen = itemgetter(*places, places[0])
        self._dtype = first.dtype
        self._is_plain = first.layout == torch.strided and first.dtype in PLAIN_DTYPES
        self._norms = norms
        self._places = list(norms.unbind())
        self._unit = unit

    def read(self, tensors: Sequence[Tensor | None]) -> None:
        """Computes the norms."""
        parts: tuple[Tensor, ...] = self._chosen(tensors)[:-1]
        if self._norms.dtype != torch.float64:
            self._norms.copy_(_float32_norms(self._joined(parts), self._unit))
        elif self._is_plain:
            # `torch.nn.utils.clip_grad_norm_` calls the same function (seen in torch 2.4 to 2.13).
            # The last argument makes it add up in float64, whatever the dtype of the tensors is.
            torch._foreach_copy_(self._places, torch._foreach_norm(parts, 2, torch.float64))
        else:
            self._norms[0] = torch.linalg.vector_norm(values_of(parts[0]).to(torch.float64))

    def _joined(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Returns one row per tensor. float32, shape (tensors, elements)."""
        if not self._is_plain:
            return values_of(parts[0]).to(torch.float32).reshape(1, -1)
        rows = torch.stack(parts)  # Fails unless all shapes are equal.
        if rows.dtype != self._dtype or rows.layout != torch.strided:
            raise KindChanged
        return rows.to(torch.float32).reshape(len(parts), -1)


def _float32_norms(rows: Tensor, unit: float) -> Tensor:
    """Returns the norm of each row in multiples of `unit`, computed in float32 alone.

    The elements are divided by the largest one of their row, so that no square overflows. The norm
    of the norms of parts is the norm of the whole, so only `_LANES` squares are added up at a time.

    Args:
        rows: float32, shape (tensors, elements).
        unit: What the norms are divided by.
    """
    if rows.numel() == 0:
        return rows.sum(dim=1)
    largest = rows.abs().amax(dim=1)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    rows = rows / scale[:, None]
    while rows.shape[1] > _LANES:
        whole = rows.shape[1] // _LANES * _LANES
        lanes = rows[:, :whole].unflatten(1, (-1, _LANES))
        rows = torch.cat([torch.linalg.vector_norm(lanes, dim=2), rows[:, whole:]], dim=1)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms * (scale / unit)
