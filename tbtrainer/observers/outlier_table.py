"""The blocks whose largest element or whose root mean square changed most between snapshots."""

import math

import numpy as np
from numpy.typing import NDArray

from tbtrainer.observers.block_numbers import BlockNumbers
from tbtrainer.panels.markdown import cell, table

Floats = NDArray[np.float64]

# Blocks that changed by less are not shown, and without any other there is no card.
LEAST_CHANGE = 4.0
MOST_ROWS = 10
_HEADER = ("block", "change", "RMS", "abs max", "abs max / RMS", "zeros", "kurtosis")


def changes(before: BlockNumbers, now: BlockNumbers) -> Floats:
    """Returns how much each block of a snapshot changed since an earlier one, as a logarithm.

    It is the change of the root mean square or of the largest magnitude, whichever is larger, in
    either direction: 1 stands for twice as large, -1 for half. It is infinite if one of the two
    numbers was zero or became zero, or if elements became NaN or infinite; and 0 if a block is not
    known in one of the snapshots. Updates follow the learning rate, so of each change of theirs the
    median change of all blocks is taken away.

    Args:
        before: The earlier snapshot. Its blocks may be others.
        now: The later one.

    Returns:
        Logarithms to the base of 2. float64, shape (blocks of `now`,).
    """
    place = {block: at for at, block in enumerate(before.blocks)}
    largest = np.zeros(len(now.blocks))
    known = np.array([at for at, block in enumerate(now.blocks) if block in place], dtype=np.intp)
    old = np.array([place[now.blocks[at]] for at in known.tolist()], dtype=np.intp)
    for name in ("rms", "abs_max"):
        with np.errstate(divide="ignore", invalid="ignore"):
            change = np.log2(getattr(now, name)[known] / getattr(before, name)[old])
        if now.target == "updates":
            change = _beyond_median(change)
        change = np.nan_to_num(change, nan=0.0, posinf=np.inf, neginf=-np.inf)
        largest[known] = np.where(np.abs(change) > np.abs(largest[known]), change, largest[known])
    largest[known[(now.nonfinite[known] > 0) & (before.nonfinite[old] == 0)]] = np.inf
    return largest


def _beyond_median(change: Floats) -> Floats:
    known = change[~np.isnan(change)]
    if not len(known):
        return change
    median = np.median(known)
    # All are infinite after a step that was skipped.
    with np.errstate(invalid="ignore"):
        return np.where(change == median, 0.0, change - median)


def outlier_card(before: BlockNumbers, now: BlockNumbers) -> str | None:
    """Returns a card of the blocks that changed most since an earlier snapshot, in Markdown.

    Args:
        before: The earlier snapshot of the same target.
        now: The later one.

    Returns:
        At most `MOST_ROWS` rows, those that changed most first; `None` if no block changed by a
        factor of `LEAST_CHANGE`.
    """
    change = changes(before, now)
    changed = np.flatnonzero(np.abs(change) >= math.log2(LEAST_CHANGE))
    if not len(changed):
        return None
    most = changed[np.argsort(-np.abs(change[changed]), kind="stable")][:MOST_ROWS]
    place = {block: at for at, block in enumerate(before.blocks)}
    of = f"{len(changed)} of {len(now.blocks)} blocks"
    shown = "" if len(most) == len(changed) else f" The {len(most)} that changed most are shown."
    beyond = " beyond the median of all blocks" if now.target == "updates" else ""
    lead = (
        f"Of the {now.target} at step {now.step}, the root mean square or the largest magnitude of "
        f"{of} changed by a factor of {LEAST_CHANGE:g} or more{beyond} since step {before.step}."
        f"{shown}"
    )
    rows = [_row(before, place[now.blocks[at]], now, at, change[at]) for at in most.tolist()]
    return f"{lead}\n\n{table(_HEADER, rows)}"


def _row(before: BlockNumbers, old: int, now: BlockNumbers, new: int, change: float) -> list[str]:
    rms, abs_max = float(now.rms[new]), float(now.abs_max[new])
    if now.nonfinite[new] > 0 and before.nonfinite[old] == 0:
        changed = f"{now.nonfinite[new]:,} NaN or infinite"
    else:
        factor = f"{2 ** abs(change):.3g}" if math.isfinite(change) else "∞"
        changed = f"{'×' if change > 0 else '÷'} {factor}"
    return [
        cell(now.blocks[new]),
        changed,
        f"{_number(float(before.rms[old]))} → {_number(rms)}",
        f"{_number(float(before.abs_max[old]))} → {_number(abs_max)}",
        _number(abs_max / rms if rms > 0 else math.nan),
        "–" if math.isnan(now.zeros[new]) else f"{now.zeros[new]:.2%}",
        _number(float(now.kurtosis[new])),
    ]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
