"""Gradient norms of every step, for almost nothing: kept on the device until a logging step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbtrainer.isolation import Isolation
from tbtrainer.sharding import ParameterTable, reduce_sum
from tbtrainer.sharding.parameter_names import block_name

# torch 2.13's CPU norm adds float32 in one running sum per lane: 4e-4 off after 11 million
# elements. Norms of chunks this long are right to 1e-6, and are put together in float64.
_CPU_CHUNK = 16_384
# Steps are folded into running sums when they would hold more than this.
_WINDOW_BYTES = 4 * 2**20


@dataclass(frozen=True)
class GradientNormSummary:
    """Gradient norms of a logging window, before clipping.

    Attributes:
        steps: Steps of the window whose gradients were finite.
        nonfinite_steps: Steps with a NaN or an infinity in some gradient; they count nowhere else.
        rms: Root mean square over the steps, by group name.
        total: Root mean square over the steps of the norm of all gradients together.
        maximum: Largest norm of all gradients together.
        clipped: Root mean square of that norm after clipping to `max_grad_norm`; `None` without
            clipping.
        clip_fraction: Share of the steps that were clipped; `None` without clipping.
    """

    steps: int
    nonfinite_steps: int
    rms: dict[str, float]
    total: float
    maximum: float
    clipped: float | None
    clip_fraction: float | None


class GradientNorms:
    """Sums of squares of the gradients, by group and step.

    Nothing here waits for the device but `summary`, which is called at logging steps.

    Args:
        table: The parameters, and which part of each this rank counts.
        detail: `"total"`, `"block"` or `"parameter"`.
        max_grad_norm: The norm that gradients are clipped to; 0 means no clipping.
        device: Where the norms are kept.
        isolation: What happens to an error.
    """

    def __init__(
        self,
        table: ParameterTable,
        detail: str,
        max_grad_norm: float,
        device: torch.device,
        isolation: Isolation,
    ) -> None:
        self._isolation = isolation
        self._table = table
        self._max_grad_norm = max_grad_norm
        self._device = device
        groups = [_group_of(row.name, detail) for row in table.rows]
        self._names = sorted(set(groups), key=groups.index)
        self._group_of_row = [self._names.index(group) for group in groups]
        self._shows_groups = detail != "total"
        self._indices: dict[tuple[torch.device, tuple[int, ...]], Tensor] = {}
        self._steps: list[Tensor] = []
        self._capacity = max(1, _WINDOW_BYTES // (8 * max(len(self._names), 1)))
        self._window = _Window.empty(len(self._names), device)

    def accumulate(self, divisor: Tensor | None = None) -> None:
        """Adds the gradients of one optimizer step, as they are now.

        Args:
            divisor: The loss scale the gradients are still multiplied by, a scalar tensor.
        """
        try:
            squares = self._sums_of_squares(self._table.gradients())
        except Exception as error:
            # The step has to be kept: the other ranks will reduce as many.
            self._isolation.report("read the norms of the gradients", error)
            squares = torch.full((len(self._names),), torch.nan, dtype=torch.float64)
            squares = squares.to(self._device, non_blocking=True)
        if divisor is not None:
            squares = squares / divisor.to(squares.device, torch.float64) ** 2
        self._steps.append(squares)
        # Every rank counts the same steps, so every rank folds, and reduces, at the same one.
        if len(self._steps) >= self._capacity:
            self._fold()

    def summary(self) -> GradientNormSummary | None:
        """Returns the window's norms and begins a new window; `None` if it holds no step.

        Waits for the device once. Under sharding this is a collective: call it on every rank.
        """
        self._fold()
        window, self._window = self._window, _Window.empty(len(self._names), self._device)
        group_squares, (finite, others, largest, clipped_squares, clipped) = window.on_host()
        if finite + others == 0:
            return None
        steps = max(finite, 1.0)
        mean = [squares / steps for squares in group_squares]
        clips = self._max_grad_norm > 0
        return GradientNormSummary(
            steps=int(finite),
            nonfinite_steps=int(others),
            rms={
                name: square**0.5
                for name, square in zip(self._names, mean, strict=True)
                if self._shows_groups
            },
            total=sum(mean) ** 0.5,
            maximum=largest**0.5,
            clipped=(clipped_squares / steps) ** 0.5 if clips else None,
            clip_fraction=clipped / steps if clips else None,
        )

    def _sums_of_squares(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Sum of squares of this rank's part of the gradients. float64, shape (groups,)."""
        sums = torch.zeros(len(self._names), dtype=torch.float64, device=self._device)
        by_device: dict[torch.device, tuple[list[Tensor], list[int]]] = {}
        for gradient, group in zip(gradients, self._group_of_row, strict=True):
            if gradient is None or gradient.numel() == 0:
                continue
            parts, part_groups = by_device.setdefault(gradient.device, ([], []))
            chunks = _chunks(gradient)
            parts.extend(chunks)
            part_groups.extend([group] * len(chunks))
        for device, (parts, part_groups) in by_device.items():
            norms = torch.stack(_norms(parts)).to(torch.float64)
            index = self._index(tuple(part_groups), device)
            partial = torch.zeros(len(self._names), dtype=torch.float64, device=device)
            sums += partial.index_add_(0, index, norms * norms).to(self._device, non_blocking=True)
        return sums

    def _index(self, groups: tuple[int, ...], device: torch.device) -> Tensor:
        """The groups as a tensor, kept, so that a step copies nothing to the device."""
        key = (device, groups)
        if key not in self._indices:
            if len(self._indices) >= 16:
                self._indices.clear()
            self._indices[key] = torch.tensor(groups, dtype=torch.int64, device=device)
        return self._indices[key]

    def _fold(self) -> None:
        """Puts the steps kept so far into the window."""
        if not self._steps:
            return
        squares = torch.stack(self._steps)
        self._steps = []
        if self._table.needs_reduction:
            squares = reduce_sum(squares, self._table.group)
        self._window = self._window.with_steps(squares, self._max_grad_norm)


@dataclass(frozen=True)
class _Window:
    """Running sums over the steps of a window, on the device.

    Attributes:
        group_squares: Sum over the finite steps of the squared norms. float64, shape (groups,).
        totals: Finite steps, other steps, largest square of the total norm, sum of its squares
            after clipping, clipped steps. float64, shape (5,).
    """

    group_squares: Tensor
    totals: Tensor

    @classmethod
    def empty(cls, groups: int, device: torch.device) -> "_Window":
        zeros = torch.zeros(groups + 5, dtype=torch.float64, device=device)
        return cls(zeros[:groups], zeros[groups:])

    def with_steps(self, squares: Tensor, max_grad_norm: float) -> "_Window":
        """Adds steps. `squares`: float64, shape (steps, groups)."""
        totals = squares.sum(dim=1)
        finite = torch.isfinite(totals)
        totals = totals.where(finite, 0.0)
        limit = float(max_grad_norm) ** 2
        steps, others, largest, clipped_squares, clipped = self.totals.unbind()
        return _Window(
            self.group_squares + squares.where(finite[:, None], 0.0).sum(dim=0),
            torch.stack(
                [
                    steps + finite.sum(),
                    others + (~finite).sum(),
                    torch.maximum(largest, totals.max()),
                    clipped_squares + totals.clamp(max=limit).sum(),
                    clipped + (totals > limit).sum(),
                ]
            ),
        )

    def on_host(self) -> tuple[list[float], list[float]]:
        """The same numbers after one copy to the host."""
        numbers: list[float] = torch.cat([self.group_squares, self.totals]).tolist()
        return numbers[:-5], numbers[-5:]


def _group_of(name: str, detail: str) -> str:
    if detail == "parameter":
        return name
    return block_name(name) if detail == "block" else "total"


def _chunks(gradient: Tensor) -> list[Tensor]:
    if gradient.device.type == "cpu" and gradient.numel() > _CPU_CHUNK and gradient.is_contiguous():
        return list(gradient.view(-1).split(_CPU_CHUNK))
    return [gradient]


def _norms(parts: list[Tensor]) -> list[Tensor]:
    """Norms in at least float32: float16 would overflow, bfloat16 would round to three digits."""
    wide = [p.dtype if p.dtype in (torch.float32, torch.float64) else torch.float32 for p in parts]
    if len(set(wide)) == 1 and hasattr(torch, "_foreach_norm"):
        # `torch.nn.utils.clip_grad_norm_` calls the same function (seen in torch 2.4 to 2.13).
        return list(torch._foreach_norm(parts, 2, wide[0]))
    return [torch.linalg.vector_norm(p, dtype=d) for p, d in zip(parts, wide, strict=True)]
