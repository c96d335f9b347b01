"""Sums over all batches of an evaluation, on the device."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tbtrainer.panels.columns import shapes_of, tensors_of
from tbtrainer.panels.sample import MOST_BYTES
from tbtrainer.statistics.devices import has_float64


class Totals:
    """What one panel adds up in one evaluation on this rank: counts, or sums of values."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds the values of a batch.

        Args:
            values: Tensors of any shape. None at all is allowed, too.

        Raises:
            TypeError: A value is not a tensor.
            ValueError: Names, shapes or kinds of numbers are not those of earlier batches, or they
                take too much memory.
        """
        if not values:
            return
        summands = {name: wide(value.detach()) for name, value in tensors_of(values).items()}
        if not self.sums:
            size = sum(value.numel() * 8 for value in summands.values())
            if size > MOST_BYTES:
                raise ValueError(
                    f"a panel's totals take {size:,} bytes; at most {MOST_BYTES:,} are allowed."
                )
            self.sums = {name: value.clone() for name, value in summands.items()}
            return
        if _kinds(summands) != _kinds(self.sums):
            raise ValueError(
                f"a panel's totals were {_kinds(self.sums)} in earlier batches, and are "
                f"{_kinds(summands)} in this one; they have to be alike."
            )
        for name, value in summands.items():
            self.sums[name] += value


def wide(value: Tensor) -> Tensor:
    """Returns a tensor in the dtype of sums: int64; float64, or float32 where there is none."""
    if not value.is_floating_point():
        return value.to(torch.int64)
    return value.to(torch.float64 if has_float64(value.device) else torch.float32)


def _kinds(values: Mapping[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        name: ("float" if values[name].is_floating_point() else "int", shape)
        for name, shape in sorted(shapes_of(values).items())
    }
