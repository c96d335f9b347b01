"""The losses of the last steps, and what else each rank knows of a step without its gradients."""

import torch
from torch import Tensor

from tbtrainer.sharding import reduce_sum
from tbtrainer.sharding.world import own_rank, reduce_max, world_size

# The columns of what `reduced` returns.
LOSS_MEAN, LOSS_KNOWN, LOSS_SPREAD, LOSS_RANK, SKIPPED, LOSS_SCALE = range(6)
# The columns of what a rank keeps.
_LOSS, _SKIPPED, _SCALE = range(3)


class StepLosses:
    """Keeps one loss per step, and reduces them over all ranks in two collectives.

    With one rank there is no collective. All memory that a collective needs is allocated here.

    Args:
        steps: The most steps that are kept.
        dtype: Of what is kept: float64, or float32 on a device without float64.
        device: The device on which the losses are kept.
        sent_device: The device from which they are reduced, in float64.
    """

    def __init__(
        self, steps: int, dtype: torch.dtype, device: torch.device, sent_device: torch.device
    ) -> None:
        self._own = torch.zeros(steps, 3, dtype=dtype, device=device)
        self._is_known = [False] * steps
        # Sum of the finite losses, and number of the known ones.
        self._added = torch.zeros(steps, 2, dtype=torch.float64, device=sent_device)
        # Largest loss, minus the smallest one, and the last rank whose loss is not finite.
        self._extremes = torch.zeros(steps, 3, dtype=torch.float64, device=sent_device)
        self._world_size = world_size()
        self._rank = own_rank()

    def keep(
        self,
        place: int,
        loss: Tensor | None,
        loss_scale: Tensor | None,
        was_reduced: Tensor | None,
        was_skipped: bool,
    ) -> None:
        """Keeps what is known of a step. Only what differs from zero is written to the device."""
        line = self._own[place]
        if loss is not None:
            scalar = loss if loss.dim() == 0 else loss.reshape(())
            line[_LOSS].copy_(scalar, non_blocking=True)
            self._is_known[place] = True
        if was_skipped:
            line[_SKIPPED].fill_(1.0)
        elif was_reduced is not None:
            line[_SKIPPED].copy_(was_reduced, non_blocking=True)
        if loss_scale is not None:
            line[_SCALE].copy_(loss_scale, non_blocking=True)

    def reduce(self, steps: int) -> None:
        """Reduces the first `steps` losses over all ranks.

        A rank that fails takes part with all losses unknown, and raises its error afterwards.
        """
        added, extremes = self._added[:steps], self._extremes[:steps]
        try:
            self._prepare(self._own[:steps], added, extremes)
        except Exception:
            added.zero_()
            extremes.fill_(-1.0)
            extremes[:, :2].fill_(-torch.inf)
            raise
        finally:
            if self._world_size > 1:
                reduce_sum(added)
                reduce_max(extremes)

    def reduced(self, steps: int) -> Tensor:
        """Returns what all ranks together know of the first `steps` steps, after `reduce`.

        Returns:
            The columns `LOSS_MEAN` (NaN if some rank's loss is not finite), `LOSS_KNOWN` (1 if
            every rank knows its loss), `LOSS_SPREAD` (largest minus smallest finite loss),
            `LOSS_RANK` (-1 if all are finite), `SKIPPED` and `LOSS_SCALE` (0 without one).
            float64, shape (steps, 6).
        """
        added, extremes = self._added[:steps], self._extremes[:steps]
        own = self._own[:steps].to(added)
        is_finite = extremes[:, 2] < 0
        mean = (added[:, 0] / self._world_size).where(is_finite, torch.nan)
        known = (added[:, 1] == self._world_size).to(torch.float64)
        spread = extremes[:, 0] + extremes[:, 1]
        columns = (mean, known, spread, extremes[:, 2], own[:, _SKIPPED], own[:, _SCALE])
        return torch.stack(columns, dim=1)

    def clear(self, steps: int) -> None:
        """Forgets the first `steps` steps."""
        self._own[:steps].zero_()
        self._is_known[:steps] = [False] * steps

    def _prepare(self, own: Tensor, added: Tensor, extremes: Tensor) -> None:
        loss = own[:, _LOSS].to(added)
        is_known = torch.tensor(self._is_known[: len(own)], device="cpu")
        is_known = is_known.to(added.device, non_blocking=True)
        is_finite = is_known & loss.isfinite()
        added[:, 0] = loss.where(is_finite, 0.0)
        added[:, 1] = is_known.to(torch.float64)
        extremes[:, 0] = loss.where(is_finite, -torch.inf)
        extremes[:, 1] = (-loss).where(is_finite, -torch.inf)
        extremes[:, 2] = (is_known & ~is_finite).to(torch.float64) * (self._rank + 1) - 1
