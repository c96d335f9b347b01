"""Curves in one line."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbtrainer.command_line.sparkline import ASCII_BLOCKS, BLOCKS, blocks_for, sparkline


def test_a_falling_curve_falls() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == BLOCKS[::-1]


def test_neighbours_are_averaged() -> None:
    assert sparkline([0, 0, 0, 1, 1, 1], 2) == "▁█"


def test_a_flat_curve_is_flat() -> None:
    assert sparkline([2.0, 2.0, 2.0], 10) == "▄▄▄"


def test_a_value_that_is_not_finite_is_marked() -> None:
    assert sparkline([1.0, math.nan, 2.0, math.inf], 10) == "▁x█x"
    assert sparkline([math.nan], 10) == "x"


def test_no_values_are_no_line() -> None:
    assert sparkline([], 10) == ""


@given(st.lists(st.floats(), max_size=300), st.integers(1, 50))
def test_any_values_fit_the_width(values: list[float], width: int) -> None:
    assert len(sparkline(values, width)) == min(len(values), width)


@pytest.mark.parametrize("encoding, blocks", [("utf-8", BLOCKS), ("ascii", ASCII_BLOCKS)])
def test_an_encoding_without_blocks_has_others(encoding: str, blocks: str) -> None:
    assert blocks_for(encoding) == blocks
    assert blocks_for(None) == blocks_for("no such encoding") == ASCII_BLOCKS
