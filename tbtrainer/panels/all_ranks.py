"""Brings what the panels kept on every rank to world rank zero."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.panels.columns import to_array
from tbtrainer.panels.open_panel import OpenPanel
from tbtrainer.panels.panel import KeptOfAllRanks, PanelEvaluation
from tbtrainer.panels.sample import Examples, joined
from tbtrainer.sharding.agreement import digest
from tbtrainer.sharding.gathering import gather_on_rank_zero

# Name and shape of each total, and whether it is a whole number.
_Layout = tuple[tuple[str, tuple[int, ...], bool], ...]
_NOTHING = torch.zeros(0, dtype=torch.float64, device="cpu")


@dataclass(frozen=True)
class _Part:
    """What one panel kept on one rank, beside the values of its totals."""

    layout: _Layout = ()
    examples: Examples | None = None
    has_failed: bool = False


def kept_of_all_ranks(
    panels: Sequence[OpenPanel],
    evaluation: PanelEvaluation,
    seen: int,
    report: Callable[[OpenPanel, Exception], None],
) -> list[tuple[OpenPanel, KeptOfAllRanks]]:
    """Returns what the panels have kept, on world rank zero. Waits for the device.

    With several ranks this is up to four collectives. A panel whose parts do not fit each other,
    or of which a rank cannot say what it kept, is left out.

    Args:
        panels: The same ones on every rank.
        evaluation: The evaluation.
        seen: Number of examples that this rank has counted.
        report: Is called with a panel that is left out, on the rank that knows why.

    Returns:
        What each of the others has kept; nothing on other ranks.

    Raises:
        MemoryError: On all ranks, if one has not enough memory for it.
    """
    parts, groups = [], []
    for panel in panels:
        part, numbers = _Part(has_failed=True), _NOTHING
        try:
            part, numbers = _part_of(panel)
        except Exception as error:
            report(panel, error)
        parts.append(part)
        groups.append(numbers)
    try:
        packet = pickle.dumps((seen, parts))
    except Exception as error:
        # The other ranks wait for this one.
        for panel in panels:
            report(panel, error)
        parts = [_Part(has_failed=True)] * len(panels)
        packet, groups = pickle.dumps((seen, parts)), [_NOTHING] * len(panels)
    gathered = gather_on_rank_zero(packet, groups, [digest(part.layout) for part in parts])
    # They come from processes of this training.
    received = [pickle.loads(packet) for packet in gathered.packets]
    all_seen = sum(seen for seen, _ in received)
    shown = []
    for index, panel in enumerate(panels if received else ()):
        try:
            of_ranks = [parts[index] for _, parts in received]
            if not any(part.has_failed for part in of_ranks):
                most = panel.most(evaluation)
                kept = _joined(of_ranks, gathered.sums[index], most, all_seen)
                shown.append((panel, kept))
        except Exception as error:
            report(panel, error)
    return shown


def _part_of(panel: OpenPanel) -> tuple[_Part, Tensor]:
    """Returns what a panel kept here, and the values of its totals in one row."""
    totals = sorted(panel.totals.sums.items())
    values = [to_array(total).astype(np.float64).ravel() for _, total in totals]
    layout = tuple(
        (name, tuple(total.shape), not total.is_floating_point()) for name, total in totals
    )
    numbers = torch.from_numpy(np.concatenate(values)) if values else _NOTHING
    return _Part(layout, panel.examples()), numbers


def _joined(parts: Sequence[_Part], sums: Tensor | None, most: int, seen: int) -> KeptOfAllRanks:
    if sums is None:
        layouts = sorted({part.layout for part in parts if part.layout})
        raise ValueError(f"a panel kept different totals on different ranks: {layouts}.")
    layout = next((part.layout for part in parts if part.layout), ())
    examples = joined([part.examples for part in parts if part.examples is not None], most)
    totals = _by_name(layout, sums)
    if examples is None:
        return KeptOfAllRanks({}, None, totals, seen)
    examples = examples.ordered()
    priority = -examples.order if examples.is_ranked else None
    return KeptOfAllRanks(examples.columns, priority, totals, seen)


def _by_name(layout: _Layout, sums: Tensor) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    found: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {}
    at = 0
    for name, shape, is_whole in layout:
        size = int(np.prod(shape, dtype=np.int64))
        values = sums[at : at + size].numpy().reshape(shape)
        found[name] = np.rint(values).astype(np.int64) if is_whole else values
        at += size
    return found
