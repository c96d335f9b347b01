"""Sums over all batches of an evaluation, on the device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tbtrainer.panels.sample import MOST_BYTES


class Totals:
    """What one panel adds up in one evaluation on this rank: counts, or sums of values."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds the values of a batch.

        Raises:
            ValueError: Names or shapes are not those of earlier batches, or they take too much
                memory.
        """
        if not values:
            return
        summands = {name: wide(value.detach()) for name, value in values.items()}
        if not self.sums:
            size = sum(value.numel() * 8 for value in summands.values())
            if size > MOST_BYTES:
                raise ValueError(
                    f"a panel's totals take {size:,} bytes; at most {MOST_BYTES:,} are allowed."
                )
            self.sums = {name: value.clone() for name, value in summands.items()}
            return
        if _shapes(summands) != _shapes(self.sums):
            raise ValueError(
                f"a panel's totals had the shapes {_shapes(self.sums)} in earlier batches, and "
                f"have {_shapes(summands)} in this one; they have to be equal."
            )
        for name, value in summands.items():
            self.sums[name] += value


def wide(value: Tensor) -> Tensor:
    """Returns a tensor in int64 or float64; in float32 on devices without float64."""
    if not value.is_floating_point():
        return value.to(torch.int64)
    return value.to(torch.float32 if value.device.type == "mps" else torch.float64)


def _shapes(values: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in sorted(values.items())}
