"""The queue keeps the order and its bound, and counts every record once."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tbtrainer.event_file.bounded_queue import Counters
from tbtrainer.event_file.record_queue import RECORD_OVERHEAD_BYTES, RecordQueue

ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 400), st.booleans()),
    st.tuples(st.just("take"), st.integers(1, 2000), st.floats(0, 1)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ACTIONS, max_size=60), st.integers(300, 3000))
def test_every_record_is_counted_and_written_in_order(
    actions: list[tuple[str, int, float]], limit: int
) -> None:
    queue, offered, written = RecordQueue(limit), 0, []
    for action, size, choice in actions:
        if action == "put":
            queue.put(offered.to_bytes(4, "big") + bytes(size), is_scalar=bool(choice))
            offered += 1
        else:
            records = queue.take(size)
            done = int(len(records) * choice)
            written += records[:done]
            queue.confirm(done)
        assert queue._bytes <= limit or len(queue) == 1
    counters = queue.counters
    assert counters.written == len(written)
    assert counters.written + counters.pending + counters.dropped == offered
    assert written == sorted(written)
    assert queue._bytes == sum(len(r) + RECORD_OVERHEAD_BYTES for r in queue.take(10**9))


def test_the_oldest_that_is_no_scalar_goes_first() -> None:
    queue = RecordQueue(4 * (RECORD_OVERHEAD_BYTES + 1))
    for record, is_scalar in ((b"s", True), (b"1", False), (b"2", False), (b"t", True)):
        queue.put(record, is_scalar)
    queue.put(b"u", True)
    queue.put(b"v", True)
    queue.put(b"w", True)
    assert queue.take(10**9) == [b"t", b"u", b"v", b"w"]
    assert queue.counters == Counters(written=0, pending=4, dropped=3)


def test_a_record_larger_than_the_queue_displaces_no_other() -> None:
    queue = RecordQueue(1000)
    queue.put(bytes(5000), False)
    assert len(queue) == 1
    queue.confirm(len(queue.take(1)))
    queue.put(b"small", True)
    queue.put(bytes(5000), False)
    assert queue.counters == Counters(written=1, pending=1, dropped=1)


def test_a_flush_waits_only_for_what_was_put_before_it() -> None:
    queue = RecordQueue(10_000)
    queue.put(b"1", True)
    queue.put(b"2", False)
    end = queue.put_count
    queue.put(b"3", True)
    assert queue.waits_before(end)
    queue.take(1)
    queue.confirm(1)
    assert queue.waits_before(end)
    queue.take(1)
    assert queue.waits_before(end)
    queue.confirm(1)
    assert not queue.waits_before(end)
    assert queue.waits_before(queue.put_count)
