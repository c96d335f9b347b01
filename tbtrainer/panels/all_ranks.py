"""Brings what the panels kept on every rank to world rank zero."""

import hashlib
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tbtrainer.panels.open_panel import OpenPanel
from tbtrainer.panels.panel import KeptOfAllRanks, PanelEvaluation
from tbtrainer.panels.sample import NUMBER, ORDER, joined, to_array
from tbtrainer.sharding.gathering import Gathered, gather_on_rank_zero

# Panel, name, shape, and whether the values are whole numbers: what is added up, in this order.
_Layout = list[tuple[int, str, tuple[int, ...], bool]]


def kept_of_all_ranks(
    panels: Sequence[OpenPanel], evaluation: PanelEvaluation, seen: int
) -> list[KeptOfAllRanks] | None:
    """Returns what each panel has kept, on world rank zero. Waits for the device.

    With several ranks this is up to three collectives. A rank that cannot say what it kept takes
    part with nothing.

    Args:
        panels: The same ones on every rank.
        evaluation: The evaluation.
        seen: Number of examples that this rank has counted.

    Returns:
        One per panel; `None` on other ranks.

    Raises:
        ValueError: The ranks added up different things. On every rank.
        Exception: This rank cannot say what it kept.
    """
    packet, totals, digest, error = b"", torch.zeros(0, dtype=torch.float64), 0, None
    try:
        packet, totals, digest = _packed(panels, seen)
    except Exception as caught:
        error = caught
    gathered = gather_on_rank_zero(packet, totals, digest)
    if error is not None:
        raise error
    if gathered.totals is None:
        raise ValueError("the ranks' panels kept totals of different names or shapes")
    return _unpacked(gathered, panels, evaluation) if gathered.packets else None


def _packed(panels: Sequence[OpenPanel], seen: int) -> tuple[bytes, torch.Tensor, int]:
    layout: _Layout = []
    values: list[NDArray[Any]] = []
    for index, panel in enumerate(panels):
        for name, total in sorted(panel.totals.sums.items()):
            layout.append((index, name, tuple(total.shape), not total.is_floating_point()))
            values.append(to_array(total).astype(np.float64).ravel())
    examples = [panel.examples() for panel in panels]
    packet = pickle.dumps((layout, seen, examples))
    totals = np.concatenate([np.zeros(0), *values])
    digest = hashlib.sha256(repr(layout).encode()).digest()[:6]
    return packet, torch.from_numpy(totals), int.from_bytes(digest, "big")


def _unpacked(
    gathered: Gathered, panels: Sequence[OpenPanel], evaluation: PanelEvaluation
) -> list[KeptOfAllRanks]:
    # They come from processes of this training.
    received = [pickle.loads(packet) for packet in gathered.packets if packet]
    layout: _Layout = next((found for found, _, _ in received if found), [])
    totals = _by_panel(layout, gathered.totals, len(panels))
    seen = sum(number for _, number, _ in received)
    result = []
    for index, panel in enumerate(panels):
        parts = [examples[index] for _, _, examples in received if examples[index]]
        columns = joined(parts, panel.most(evaluation))
        order, number = columns.pop(ORDER, None), columns.pop(NUMBER, None)
        priority = None
        if order is not None and number is not None:
            if order.dtype == np.float32:
                priority = -order
            else:
                in_order = np.argsort(number)
                columns = {name: column[in_order] for name, column in columns.items()}
        result.append(KeptOfAllRanks(columns, priority, totals[index], seen))
    return result


def _by_panel(
    layout: _Layout, sums: torch.Tensor | None, panels: int
) -> list[dict[str, NDArray[Any]]]:
    found: list[dict[str, NDArray[Any]]] = [{} for _ in range(panels)]
    at = 0
    for index, name, shape, is_whole in layout:
        assert sums is not None
        size = int(np.prod(shape, dtype=np.int64))
        values = sums[at : at + size].numpy().reshape(shape)
        found[index][name] = np.rint(values).astype(np.int64) if is_whole else values
        at += size
    return found
