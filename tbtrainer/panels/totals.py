"""Sums over all batches of an evaluation, on the device."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tbtrainer.panels.columns import tensors_of
from tbtrainer.panels.sample import MOST_BYTES
from tbtrainer.statistics.devices import has_float64


class Totals:
    """What one panel adds up in one evaluation on this rank: counts, or sums of values."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds the values of a batch.

        Args:
            values: Tensors of any shape. A batch need not have values of all names.

        Raises:
            TypeError: A value is not a tensor.
            ValueError: A value has another shape or another kind of numbers than in earlier
                batches, or all of them together take too much memory.
        """
        for name, value in tensors_of(values).items():
            summand = wide(value.detach())
            known = self.sums.get(name)
            if known is None:
                self.sums[name] = summand.clone()
                self._check_size()
            elif _kind(known) != _kind(summand):
                raise ValueError(
                    f"a panel's total {name!r} was {_kind(known)} in earlier batches, and is "
                    f"{_kind(summand)} in this one; it has to be the same."
                )
            else:
                known += summand

    def _check_size(self) -> None:
        size = sum(value.numel() * 8 for value in self.sums.values())
        if size > MOST_BYTES:
            raise ValueError(
                f"a panel's totals take {size:,} bytes; at most {MOST_BYTES:,} are allowed."
            )


def wide(value: Tensor) -> Tensor:
    """Returns a tensor in the dtype of sums: int64; float64, or float32 where there is none."""
    if not value.is_floating_point():
        return value.to(torch.int64)
    return value.to(torch.float64 if has_float64(value.device) else torch.float32)


def _kind(value: Tensor) -> str:
    return f"{'floating' if value.is_floating_point() else 'whole'} of shape {tuple(value.shape)}"
