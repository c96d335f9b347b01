"""One pass over scalars, in chunks of any size, finds what a look at all of them finds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbtrainer.command_line.curves import MOST_PIECES, Curve, Curves

SCALAR = st.tuples(
    st.integers(0, 2), st.integers(0, 1000), st.floats(-100, 100) | st.sampled_from([math.nan])
)


def added(rows: list[tuple[int, int, float]], cuts: list[int]) -> Curves:
    curves = Curves()
    edges = [0, *sorted(cuts), len(rows)]
    for begin, end in zip(edges, edges[1:], strict=False):
        part = rows[begin:end]
        tag, step, value = zip(*part, strict=True) if part else ((), (), ())
        curves.add(
            ["a", "b", "c"],
            np.array(tag, np.int32),
            np.array(step, np.int64),
            np.array(step, np.float64),
            np.array(value, np.float64),
        )
    return curves


@given(st.data(), st.lists(SCALAR, min_size=1, max_size=60))
def test_chunks_of_any_size_give_the_same(
    data: st.DataObject, rows: list[tuple[int, int, float]]
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=4))
    for number, name in enumerate("abc"):
        own = [(step, value) for tag, step, value in rows if tag == number]
        curve = added(rows, cuts).by_tag.get(name)
        if not own:
            assert curve is None
            continue
        assert curve is not None
        finite = [value for _, value in own if math.isfinite(value)]
        assert (curve.count, curve.nonfinite) == (len(own), len(own) - len(finite))
        assert (curve.first_step, curve.last_step) == (own[0][0], own[-1][0])
        assert np.array_equal([curve.first, curve.last], [own[0][1], own[-1][1]], equal_nan=True)
        if not finite:
            assert math.isnan(curve.minimum) and math.isnan(curve.mean)
            continue
        assert (curve.minimum, curve.maximum) == (min(finite), max(finite))
        assert curve.minimum_step == next(s for s, v in own if v == min(finite))
        assert curve.maximum_step == next(s for s, v in own if v == max(finite))
        assert curve.mean == pytest.approx(np.mean(finite), abs=1e-9)


def test_the_pieces_are_means_in_order() -> None:
    curve = Curve()
    count = MOST_PIECES * 5 + 3
    for begin in range(0, count, 7):
        steps = np.arange(begin, min(begin + 7, count))
        curve.add(steps, steps.astype(float), steps.astype(float))
    length = 8
    expected = [np.mean(range(at, min(at + length, count))) for at in range(0, count, length)]
    assert curve.pieces() == pytest.approx(expected)


def test_memory_does_not_grow_with_the_records() -> None:
    curve = Curve()
    steps = np.arange(100_000)
    for _ in range(20):
        curve.add(steps, steps.astype(float), steps.astype(float))
    assert curve.count == 2_000_000
    assert MOST_PIECES / 2 <= len(curve.pieces()) <= MOST_PIECES
