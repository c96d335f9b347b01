"""The queue of records that wait for the disk."""

from tbtrainer.event_file.bounded_queue import BoundedQueue

# The memory that Python needs for a record in addition to its bytes. A scalar has about 50 bytes,
# so if this were not counted, the queue would need four times its limit.
RECORD_OVERHEAD_BYTES = 150


class RecordQueue(BoundedQueue[bytes]):
    """Holds records in order until they are written, and drops some when it is full.

    Args:
        limit_bytes: The most bytes of waiting records, including `RECORD_OVERHEAD_BYTES` for each.
            A single record may be larger if no other record waits.
    """

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes, _size_of)


def _size_of(record: bytes) -> int:
    return len(record) + RECORD_OVERHEAD_BYTES
