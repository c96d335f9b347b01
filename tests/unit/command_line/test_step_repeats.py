"""Steps that occur twice are found in chunks of any size."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tbtrainer.command_line.step_repeats import StepRepeats

Row = tuple[int, int, float]


def counted(rows: list[Row], cuts: list[int]) -> StepRepeats:
    repeats = StepRepeats()
    edges = [0, *sorted(cuts), len(rows)]
    for begin, end in zip(edges, edges[1:], strict=False):
        tag, step, value = zip(*rows[begin:end], strict=True) if end > begin else ((), (), ())
        repeats.add(np.array(tag, np.int32), np.array(step, np.int64), np.array(value, float))
    return repeats


def expected(rows: list[Row], tag: int) -> tuple[int, int]:
    """Counts one by one."""
    largest, latest, repeated, backward = None, None, 0, 0
    for other, step, value in rows:
        if other != tag:
            continue
        if largest is not None and step < largest:
            backward += 1
        elif largest is not None and step == largest and latest != (step, value):
            repeated += 1
        largest = step if largest is None else max(largest, step)
        latest = step, value
    return repeated, backward


@given(
    st.data(),
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 5), st.sampled_from([1.0, 2.0])), max_size=40
    ),
)
def test_chunks_of_any_size_give_the_same(data: st.DataObject, rows: list[Row]) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=4))
    repeats = counted(rows, cuts)
    for tag in range(len(repeats.repeated)):
        found = repeats.repeated[tag], repeats.backward[tag]
        assert found == expected(rows, tag)


def test_the_first_such_step_is_known() -> None:
    rows = [(0, step, float(number)) for number, step in enumerate((1, 2, 3, 3, 4, 2))]
    repeats = counted(rows, [])
    assert (repeats.repeated[0], repeats.backward[0], repeats.first_repeated[0]) == (1, 1, 3)


def test_an_equal_scalar_is_not_counted() -> None:
    assert not counted([(0, 1, 5.0), (0, 1, 5.0)], [1]).repeated.any()
