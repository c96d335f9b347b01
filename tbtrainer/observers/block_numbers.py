"""`BlockNumbers`: the numbers of each block of the model at a snapshot."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbtrainer.observers.snapshot_records import incomplete_rows
from tbtrainer.sharding.parameter_names import block_name
from tbtrainer.statistics import Snapshot
from tbtrainer.statistics.fourth_powers import FourthPowers, fourth_powers

Floats = NDArray[np.float64]

# The target whose rows are modules. The names of the others are those of parameters.
_OF_MODULES = "activations"
# A kurtosis is shown if it is at most so many times too high, and too low, as with elements in
# narrow buckets.
_MOST_TOO_HIGH, _MOST_TOO_LOW = 1.134, 0.889
# More is not read back from a file: a picture of it could fill the memory.
_MOST_BLOCKS, _MOST_LETTERS = 10_000, 500
_FIELDS = ("rms", "abs_max", "zeros", "kurtosis", "ratio")


@dataclass(frozen=True)
class BlockNumbers:
    """The numbers of all blocks at one snapshot, in the order of the model's parameters.

    They have six significant digits, as in the file that keeps them. NaN stands for a number that
    is not known: the block has no element, or not all were measured, or the error of the kurtosis
    could be larger than stated here.

    Attributes:
        target: What the snapshot shows, such as `"gradients"`.
        step: Optimizer step of the snapshot.
        blocks: Their names.
        rms: Root mean square of the finite elements. float64, shape (blocks,).
        abs_max: Largest magnitude of the finite elements. As above.
        zeros: Share of the elements that are zero. As above.
        kurtosis: n·Σx⁴ / (Σx²)² of the finite elements, about zero: 1 if all have the same
            magnitude, 3 if they are normally distributed, and more the fewer elements hold the sum
            of squares; at most 13.4 % too high or 11.1 % too low. As above.
        nonfinite: NaN and infinities. int64, shape (blocks,).
        ratio: Of the updates: RMS(update)/RMS(parameter). float64, shape (blocks,); `None` for
            other targets.
    """

    target: str
    step: int
    blocks: tuple[str, ...]
    rms: Floats
    abs_max: Floats
    zeros: Floats
    kurtosis: Floats
    nonfinite: NDArray[np.int64]
    ratio: Floats | None = None

    @classmethod
    def of(cls, target: str, step: int, snapshot: Snapshot) -> "BlockNumbers":
        """Returns the numbers of a snapshot.

        Args:
            target: What it shows.
            step: Optimizer step of the snapshot.
            snapshot: In main memory, of the whole tensors.
        """
        statistics = snapshot.statistics
        names, block_of = blocks_of(target, snapshot.rows.names)
        counts = statistics.count.numpy()
        sums = _Sums(block_of, len(names))
        incomplete = np.zeros(len(names), dtype=bool)
        incomplete[block_of[sorted(incomplete_rows(snapshot))]] = True
        finite = sums.of(counts - statistics.nonfinite.numpy())
        squares = sums.of(statistics.sum_of_squares.numpy())
        magnitudes = np.maximum(-statistics.minimum.numpy(), statistics.maximum.numpy())
        abs_max = np.full(len(names), -np.inf)
        np.maximum.at(abs_max, block_of, magnitudes)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            numbers = {
                "rms": np.sqrt(squares / finite),
                "abs_max": abs_max,
                "zeros": sums.of(statistics.zeros.numpy()) / sums.of(counts),
                "kurtosis": _kurtosis(
                    finite, squares, abs_max, sums.of_powers(fourth_powers(statistics))
                ),
            }
            if target == "updates":
                numbers["ratio"] = _ratios(snapshot, sums, squares / finite)
        is_known = (finite > 0) & ~incomplete
        return cls(
            target,
            step,
            names,
            nonfinite=sums.of(statistics.nonfinite.numpy()).astype(np.int64),
            **{name: _rounded(np.where(is_known, n, np.nan)) for name, n in numbers.items()},
        )

    @classmethod
    def from_line(cls, target: str, line: Mapping[str, Any]) -> "BlockNumbers | None":
        """Returns the numbers of a line that `values` made; `None` if it is not such a line.

        Args:
            target: What the line is about.
            line: As read back. It may come from any source.
        """
        try:
            blocks = _names(line["blocks"])
            numbers = {
                name: np.array([math.nan if n is None else float(n) for n in line[name]])
                for name in _FIELDS
                if name in line
            }
            nonfinite = np.array([int(n) for n in line["nonfinite"]], dtype=np.int64)
            found = cls(target, int(line["step"]), blocks, nonfinite=nonfinite, **numbers)
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        lengths = {len(nonfinite), *map(len, numbers.values())}
        return found if lengths == {len(blocks)} else None

    def values(self) -> dict[str, Any]:
        """Returns the numbers as the values of a line of JSON, in which `None` stands for NaN."""
        numbers = {name: getattr(self, name) for name in _FIELDS}
        return {
            "target": self.target,
            "blocks": list(self.blocks),
            "nonfinite": self.nonfinite.tolist(),
            **{
                name: [None if math.isnan(n) else n for n in of_blocks.tolist()]
                for name, of_blocks in numbers.items()
                if of_blocks is not None
            },
        }

    @property
    def shown(self) -> Floats:
        """What the picture shows: the ratio of the updates, and the RMS of other targets.

        NaN where nothing is known, and infinity where an element is not finite.
        """
        numbers = self.rms if self.ratio is None else self.ratio
        return np.where(self.nonfinite > 0, np.inf, numbers)


def _names(values: Any) -> tuple[str, ...]:
    """Returns names of blocks that were read from a file.

    Raises:
        ValueError: They are not such names, or too many.
    """
    if not isinstance(values, list) or len(values) > _MOST_BLOCKS:
        raise ValueError("the blocks are no list, or too many")
    if not all(isinstance(name, str) and len(name) <= _MOST_LETTERS for name in values):
        raise ValueError("a name of a block is no text, or too long")
    return tuple(values)


def blocks_of(target: str, names: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Returns the blocks of rows, in the order of the rows, and the place of each row's block.

    Args:
        target: What the rows are.
        names: Of the rows.

    Example:
        >>> blocks_of("gradients", ["layers.0.up.weight", "layers.0.up.bias", "head.weight"])[0]
        ('layers.0', 'head')
        >>> blocks_of("activations", ["embed", "layers.0", "layers.1"])[0]
        ('embed', 'layers.0', 'layers.1')
    """
    # A module that is not inside of a numbered one is a block of its own.
    end = ".output" if target == _OF_MODULES else ""
    of_rows = [block_name(f"{name}{end}") for name in names]
    places = {block: place for place, block in enumerate(dict.fromkeys(of_rows))}
    return tuple(places), np.array([places[block] for block in of_rows], dtype=np.intp)


@dataclass(frozen=True)
class _Sums:
    """Adds the numbers of rows for each block.

    Attributes:
        block_of: Place of each row's block.
        blocks: How many there are.
    """

    block_of: NDArray[np.intp]
    blocks: int

    def of(self, numbers: NDArray[Any]) -> Floats:
        sums = np.bincount(self.block_of, numbers.astype(np.float64), self.blocks)
        return sums.astype(np.float64)

    def of_powers(self, powers: FourthPowers) -> FourthPowers:
        return FourthPowers(*(self.of(numbers) for numbers in vars(powers).values()))


def _kurtosis(finite: Floats, squares: Floats, abs_max: Floats, powers: FourthPowers) -> Floats:
    """Returns the kurtosis of blocks, and NaN where its error could be large."""
    # By the inequality of Cauchy and Schwarz, and because no element exceeds the largest one.
    least = np.maximum(powers.least, squares**2 / finite)
    most = np.minimum(powers.most, squares * abs_max**2)
    estimate = np.clip(powers.estimate, least, np.maximum(least, most))
    is_certain = (squares > 0) & (estimate <= _MOST_TOO_HIGH * least)
    is_certain &= _MOST_TOO_LOW * most <= estimate
    return np.where(is_certain, finite * estimate / squares**2, np.nan)


def _ratios(snapshot: Snapshot, sums: _Sums, mean_squares: Floats) -> Floats:
    """Returns RMS(update)/RMS(parameter) of blocks, and NaN where it is not known.

    As `update_ratio` in `updates.py`, which says more about it.
    """
    if snapshot.beside is None:
        return np.full(sums.blocks, np.nan)
    rows, counts = snapshot.rows, snapshot.statistics.count.numpy()
    is_trained = counts > 0  # Frozen parameters are not counted.
    sizes = [size or 0 for size in rows.tensor_counts]
    whole = sums.of(np.where(is_trained, np.array(sizes) * np.array(rows.members), 0))
    squares = sums.of(np.where(is_trained, snapshot.beside.numpy(), 0.0))
    ratios = np.sqrt(mean_squares / (squares / whole))
    return np.where(np.isfinite(ratios), ratios, np.nan)


def _rounded(numbers: Floats) -> Floats:
    return np.array([float(f"{number:.6g}") for number in numbers.tolist()])
