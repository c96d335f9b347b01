"""The blocks that changed most between two snapshots are on the card, and calm ones are not."""

import math

import numpy as np
import pytest

from tbtrainer.observers.block_numbers import BlockNumbers
from tbtrainer.observers.outlier_table import changes, outlier_card


def numbers(
    step: int,
    rms: list[float],
    abs_max: list[float],
    nonfinite: list[int] | None = None,
    blocks: list[str] | None = None,
    target: str = "gradients",
) -> BlockNumbers:
    names = blocks or [f"h.{n}" for n in range(len(rms))]
    zeros, kurtosis = np.full(len(rms), 0.25), np.full(len(rms), 3.0)
    bad = np.array(nonfinite or [0] * len(rms))
    arrays = (np.array(rms), np.array(abs_max), zeros, kurtosis, bad)
    return BlockNumbers(target, step, tuple(names), *arrays)


def test_the_larger_change_of_the_two_counts() -> None:
    before = numbers(1, [1, 1, 1, 1], [10, 10, 10, 10])
    now = numbers(2, [2, 1, 0.25, 1], [15, 160, 20, 10])
    assert changes(before, now).tolist() == [1.0, 4.0, -2.0, 0.0]


def test_zero_and_damage_are_infinite_changes() -> None:
    before = numbers(1, [0, 1, 1, 0, 1], [0, 1, 1, 0, 1], [0, 0, 0, 0, 2])
    now = numbers(2, [1, 0, 1, 0, 1], [1, 0, 1, 0, 1], [0, 0, 3, 0, 2])
    assert changes(before, now).tolist() == [math.inf, -math.inf, math.inf, 0.0, 0.0]


def test_a_change_of_all_updates_together_does_not_count() -> None:
    before = numbers(1, [1.0] * 4, [1.0] * 4, target="updates")
    rates = numbers(2, [0.1, 0.1, 0.1, 0.8], [0.1] * 4, target="updates")
    assert changes(before, rates).tolist()[:3] == [0.0] * 3
    card = outlier_card(before, numbers(2, [0.1, 0.1, 0.1, 0.9], [0.1] * 4, target="updates"))
    assert card is not None and "1 of 4 blocks changed" in card and "beyond the median" in card
    skipped = numbers(2, [0.0] * 4, [0.0] * 4, target="updates")
    assert outlier_card(before, skipped) is None
    assert outlier_card(skipped, before) is None


def test_blocks_that_are_not_known_do_not_count() -> None:
    before = numbers(1, [1, math.nan], [1, math.nan], blocks=["a", "b"])
    now = numbers(2, [9, 9, math.nan], [9, 9, math.nan], blocks=["c", "b", "a"])
    assert changes(before, now).tolist() == [0.0, 0.0, 0.0]
    assert changes(numbers(1, [], []), now).tolist() == [0.0, 0.0, 0.0]


def test_a_calm_snapshot_has_no_card() -> None:
    assert outlier_card(numbers(1, [1, 1], [4, 4]), numbers(2, [3.9, 1], [15, 2])) is None


def test_the_card_has_the_changes_in_their_order() -> None:
    before = numbers(20, [1e-3, 1e-3, 1e-3], [1e-2, 1e-2, 1e-2])
    now = numbers(40, [4e-3, 1e-5, 1e-3], [1e-2, 1e-2, 1e-2])
    card = outlier_card(before, now)
    assert card is not None
    lead, _, header, _, first, second = card.splitlines()
    assert "2 of 3 blocks" in lead and "step 40" in lead and "step 20" in lead
    assert header.startswith("| block | change | RMS |")
    assert first.startswith("| h.1 | ÷ 100 | 0.001 → 1e-05 | 0.01 → 0.01 | 1e+03 | 25.00% | 3 |")
    assert second.startswith("| h.0 | × 4 |")


def test_at_most_ten_blocks_are_shown() -> None:
    before = numbers(1, [1.0] * 128, [1.0] * 128)
    now = numbers(2, [8.0 + n for n in range(128)], [1.0] * 128)
    card = outlier_card(before, now)
    assert card is not None
    assert "128 of 128 blocks" in card and "The 10 that changed most are shown." in card
    assert [line.split(" | ")[0] for line in card.splitlines()[4:]] == [
        f"| h.{n}" for n in range(127, 117, -1)
    ]


@pytest.mark.parametrize("rms", [1.0, math.nan])
def test_damage_is_named(rms: float) -> None:
    before = numbers(1, [1.0], [1.0])
    card = outlier_card(before, numbers(2, [rms], [rms], [1234]))
    assert card is not None and "1,234 NaN or infinite" in card


def test_a_name_does_not_break_the_table() -> None:
    before = numbers(1, [1.0], [1.0], blocks=["a|b<c>"])
    card = outlier_card(before, numbers(2, [9.0], [1.0], blocks=["a|b<c>"]))
    assert card is not None and "a&#124;b&#60;c&#62;" in card
