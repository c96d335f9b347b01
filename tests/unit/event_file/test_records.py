"""The header of an event file, and framing."""

import io

import pytest
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from tbtrainer.event_file.event_file import first_start_step
from tbtrainer.event_file.records import file_header, framed, unframed, whole_records


def events_of(header: bytes) -> list[Event]:
    return [Event.FromString(unframed(record)) for record in whole_records(io.BytesIO(header))]


@pytest.mark.parametrize(
    ("step", "written"), [(0, 0), (7, 7), (2**63, 2**63 - 1), (2**70, 2**63 - 1)]
)
def test_the_step_of_a_session_start_fits_an_event(step: int | None, written: int) -> None:
    version, start = events_of(file_header(step))
    assert version.file_version == "brain.Event:2"
    assert (start.session_log.status, start.step) == (SessionLog.START, written)


def test_a_file_that_replaces_nothing_has_no_start() -> None:
    (version,) = events_of(file_header(None))
    assert version.file_version == "brain.Event:2"


@pytest.mark.parametrize(
    ("purge_step", "is_empty_directory", "step"),
    [(11, True, 11), (11, False, 11), (0, False, 0), (None, True, 0), (None, False, None)],
)
def test_only_a_session_that_replaces_steps_writes_its_start(
    purge_step: int | None, is_empty_directory: bool, step: int | None
) -> None:
    assert first_start_step(purge_step, is_empty_directory) == step


def test_a_torn_record_ends_the_reading() -> None:
    records = [framed(b"first"), framed(b"second")]
    torn = b"".join(records)[:-1]
    assert list(whole_records(io.BytesIO(torn))) == records[:1]


class CountingFile(io.BytesIO):
    """A file that notes the largest number of bytes it was asked for."""

    largest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.largest = max(self.largest, -1 if size is None else size)
        return super().read(size)


@pytest.mark.parametrize("length", [2**31, 2**62, 2**64 - 1])
def test_a_length_beyond_the_end_is_not_read(length: int) -> None:
    header = length.to_bytes(8, "little")
    forged = header + framed(header)[-4:]
    file = CountingFile((framed(b"first") + forged).ljust(100, b"x"))
    assert list(whole_records(file)) == [framed(b"first")]
    assert file.largest <= 100
