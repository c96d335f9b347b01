"""Steps of tags, collected batch by batch."""

import io
from dataclasses import astuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tbtrainer.reading.batch import Batch
from tbtrainer.reading.portable_scan import PortableScan
from tbtrainer.reading.scanner import Scan
from tbtrainer.reading.segments import Segment, parts_of, tag_steps
from tbtrainer.reading.tag_counts import TagCounts
from tbtrainer.reading.tag_table import TagTable
from tests.event_bytes import scalar

values = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(-3, 9)), min_size=1, max_size=20)


def batches(written: list[tuple[str, int]], piece_bytes: int) -> list[Batch]:
    data = b"".join(scalar(tag, step, 0, time) for time, (tag, step) in enumerate(written))
    return list(Scan(io.BytesIO(data), piece_bytes=piece_bytes, scan_piece=PortableScan()))


def collected(found: list[Batch]) -> tuple[Segment, TagCounts, TagTable]:
    segment, counts, table = Segment(0, None, 0.0), TagCounts(), TagTable()
    for batch in found:
        numbers = table.numbers(batch)
        tag, step = batch.tag, batch.step
        steps = tag_steps(tag, step, len(batch.tags))
        segment.add(batch, slice(0, len(batch)), steps, numbers)
        counts.add(tag, batch.field, steps, numbers)
    return segment, counts, table


@given(values, st.sampled_from([1, 100]))
def test_steps_are_those_of_all_batches(written: list[tuple[str, int]], piece: int) -> None:
    segment, counts, table = collected(batches(written, piece))
    of_tag = {tag: [step for name, step in written if name == tag] for tag, _ in written}
    names = table.names
    assert {names[n]: step for n, step in segment.first_steps.items()} == {
        tag: steps[0] for tag, steps in of_tag.items()
    }
    assert {names[n]: step for n, step in segment.largest_steps.items()} == {
        tag: max(steps) for tag, steps in of_tag.items()
    }
    assert {names[n]: step for n, step in counts.first_steps.items()} == {
        tag: steps[0] for tag, steps in of_tag.items()
    }
    assert {names[n]: step for n, step in counts.last_steps.items()} == {
        tag: steps[-1] for tag, steps in of_tag.items()
    }
    totals = {names[n]: sum(counts.of(n).values()) for n in range(len(names))}
    assert totals == {tag: len(steps) for tag, steps in of_tag.items()}
    every = [step for _, step in written]
    assert (segment.smallest_step, segment.largest_step) == (min(every), max(every))
    assert (segment.values, segment.first_value, segment.ends) == (
        len(written),
        0.0,
        len(written) - 1,
    )


@given(values, st.integers(0, 30))
def test_few_values_among_many_tags_are_counted_alike(
    written: list[tuple[str, int]], others: int
) -> None:
    (batch,) = batches(written, 10_000)
    tags = len(batch.tags)
    few = tag_steps(batch.tag, batch.step, tags + others)
    for one, other in zip(
        astuple(few), astuple(tag_steps(batch.tag, batch.step, tags)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_batch_without_starts_is_one_part() -> None:
    (batch,) = batches([("a", 1), ("b", 2)], 1000)
    assert [(part.start, part.rows) for part in parts_of(batch)] == [(None, slice(0, 2))]
