"""The two scanners find the same in any bytes, and what TensorBoard's messages say."""

import ctypes
import io
import math
import struct
from collections.abc import Callable
from typing import Any

import google_crc32c
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto

from tbtrainer.event_file.records import file_header, framed
from tbtrainer.reading import wire
from tbtrainer.reading.compiled_scan import CompiledScan, load_library
from tbtrainer.reading.portable_scan import PortableScan
from tbtrainer.reading.scanner import Scan
from tests.event_bytes import FIXED32, PART, SHAPES, VARINT, field, files, forged, metadata, scalar

LIBRARY = load_library()
compiled = pytest.mark.skipif(LIBRARY is None, reason="the installation has no compiled scanner")
Found = tuple[list[tuple[Any, ...]], dict[bytes, bytes], int, int, str]


def compiled_scan(rows: int = 1000) -> CompiledScan:
    assert LIBRARY is not None
    return CompiledScan(LIBRARY, rows)


SCANS = [
    pytest.param(PortableScan, id="protobuf"),
    pytest.param(compiled_scan, id="compiled", marks=compiled),
]
each_scan = pytest.mark.parametrize("scan", SCANS)


def found(data: bytes, scan: Any, begin: int = 0, piece_bytes: int = 2**20) -> Found:
    """Every row, the first metadata of each tag, and where and why the reading ended."""
    pass_ = Scan(io.BytesIO(data), begin, piece_bytes=piece_bytes, scan_piece=scan)
    rows: list[tuple[Any, ...]] = []
    tags: dict[bytes, bytes] = {}
    for batch in pass_:
        for row in range(len(batch)):
            tag = batch.tags[batch.tag[row]] if batch.tag[row] >= 0 else None
            stamp = int(batch.step[row]), bits(batch.wall_time[row])
            content = bits(batch.value[row]), batch.value_bytes(row)
            rows.append((int(batch.field[row]), tag, *stamp, *content))
        for tag, data_of_tag in zip(batch.tags, batch.metadata, strict=True):
            if data_of_tag is not None:
                tags.setdefault(tag, data_of_tag)
    return rows, tags, pass_.end, pass_.unread_bytes, pass_.reason


def bits(number: float) -> bytes:
    return b"nan" if math.isnan(number) else struct.pack("<d", number)


def scalars(result: Found) -> list[tuple[str, int, float]]:
    return [
        (row[1].decode(), row[2], struct.unpack("<d", row[4])[0])
        for row in result[0]
        if row[0] in (wire.SIMPLE_VALUE, wire.NUMBER)
    ]


# ---- The two are one ----


@compiled
@settings(max_examples=500)
@given(data=files(), rows=st.sampled_from([1, 2, 3, 1000]), piece=st.sampled_from([16, 64, 2**20]))
@example(data=forged(2**64 - 1), rows=1, piece=16)
@example(data=framed(b"") + forged(2**63), rows=1, piece=16)
def test_both_scanners_find_the_same_in_any_bytes(data: bytes, rows: int, piece: int) -> None:
    expected = found(data, PortableScan())
    assert found(data, compiled_scan(rows), piece_bytes=piece) == expected


ONE = field(1, VARINT, 1) + field(5, FIXED32, struct.pack("<f", 1))
ODD_VALUES = {
    "two tags": field(1, PART, b"a") + field(1, PART, b"b") + field(2, FIXED32, b"1234"),
    "a number, then a tensor": field(2, FIXED32, b"1234") + field(8, PART, ONE),
    "a tensor, then a number": field(8, PART, ONE) + field(2, FIXED32, b"1234"),
    "two tensors": field(8, PART, field(1, VARINT, 1)) + field(8, PART, ONE),
    "a field of a wrong type": field(2, VARINT, 7) + field(8, PART, ONE),
    "a long varint": b"\x0a\x81\x80\x80\x00a" + field(8, PART, ONE),
    "a varint that is too long": b"\x0a" + b"\x80" * 10 + b"\x00" + field(8, PART, ONE),
    "a varint beyond 64 bits": b"\x42" + b"\x80" * 9 + b"\x02",
    "a part beyond the end": b"\x42\x7f" + ONE,
    "a tensor of many bytes": field(8, PART, ONE + field(8, PART, b"x" * 60)),
    "a tensor of two numbers": field(8, PART, ONE + field(5, FIXED32, b"1234")),
    "a tensor without dtype": field(8, PART, ONE[2:]),
    "a tensor of a dtype beyond 32 bits": field(8, PART, field(1, VARINT, 2**32 + 1) + ONE[2:]),
    "a tensor with a step of a dtype": field(8, PART, ONE + field(1, VARINT, 2)),
    **{f"a shape {shape!r}": field(8, PART, ONE + field(2, PART, shape)) for shape in SHAPES},
}


@compiled
@pytest.mark.parametrize("form", ODD_VALUES)
def test_both_scanners_read_odd_values_alike(form: str) -> None:
    data = framed(field(2, VARINT, 3) + field(5, PART, field(1, PART, ODD_VALUES[form])))
    assert found(data, compiled_scan()) == found(data, PortableScan())


ODD_EVENTS = {
    "a step of ten bytes": b"\x10" + b"\xff" * 9 + b"\x01" + field(7, PART, b"\x08\x01"),
    "a step beyond 64 bits": b"\x10" + b"\xff" * 9 + b"\x02" + field(7, PART, b"\x08\x01"),
    "a status beyond 32 bits": field(7, PART, field(1, VARINT, 2**32 + 1)),
    "two statuses": field(7, PART, b"\x08\x01\x08\x02"),
    "two logs": field(7, PART, b"\x08\x02") + field(7, PART, b"\x08\x01"),
    "a log, then a summary": field(7, PART, b"\x08\x01") + field(5, PART, b""),
    "a summary, then a log": field(5, PART, b"") + field(7, PART, b"\x08\x01"),
    "a group": b"\x0b\x0c" + field(7, PART, b"\x08\x01"),
    "field number zero": b"\x00\x01",
}


@compiled
@pytest.mark.parametrize("form", ODD_EVENTS)
def test_both_scanners_read_odd_events_alike(form: str) -> None:
    data = framed(ODD_EVENTS[form]) + scalar("after", 1, 1)
    assert found(data, compiled_scan()) == found(data, PortableScan())


@given(data=files(), piece=st.sampled_from([1, 16, 50]))
def test_the_size_of_the_pieces_changes_nothing(data: bytes, piece: int) -> None:
    expected = found(data, PortableScan())
    assert found(data, PortableScan(), piece_bytes=piece) == expected


@compiled
@given(data=st.binary(max_size=100))
@pytest.mark.parametrize("portable", [0, 1])
def test_checksums_are_those_of_google_crc32c(portable: int, data: bytes) -> None:
    assert LIBRARY is not None
    found = LIBRARY.tbtrainer_crc32c(data, ctypes.c_int64(len(data)), portable)
    assert found & 0xFFFFFFFF == google_crc32c.value(data)


# ---- What is found ----


@each_scan
def test_every_form_of_a_scalar_is_found(scan: Callable[[], Any]) -> None:
    tensors = [
        TensorProto(dtype=1, float_val=[0.1]),
        TensorProto(dtype=1, tensor_content=struct.pack("<f", 0.1)),
        TensorProto(dtype=2, double_val=[0.1]),
        TensorProto(dtype=2, tensor_content=struct.pack("<d", 0.1)),
        TensorProto(dtype=3, int_val=[-7]),
        TensorProto(dtype=9, int64_val=[2**40]),
        TensorProto(dtype=9, tensor_content=struct.pack("<q", -(2**40))),
        TensorProto(dtype=10, bool_val=[True]),
        TensorProto(dtype=19, half_val=[0x3E00]),
        TensorProto(dtype=14, half_val=[0x3FC0]),
        TensorProto(dtype=23, uint64_val=[2**63]),
    ]
    shaped = TensorProto(dtype=1, float_val=[2.5])
    shaped.tensor_shape.dim.add(size=1)
    written = [Summary.Value(tag=str(n), tensor=t) for n, t in enumerate([*tensors, shaped])]
    written.append(Summary.Value(tag="simple", simple_value=0.1))
    data = framed(Event(step=3, summary=Summary(value=written)).SerializeToString())
    single = struct.unpack("<f", struct.pack("<f", 0.1))[0]
    numbers = [single, single, 0.1, 0.1, -7, 2**40, -(2**40), 1, 1.5, 1.5, 2**63, 2.5, single]
    assert [value for _, _, value in scalars(found(data, scan()))] == numbers


@each_scan
def test_tensors_that_are_no_number_are_left_as_they_are(scan: Callable[[], Any]) -> None:
    tensors = [
        TensorProto(dtype=7, string_val=[b"text"]),
        TensorProto(dtype=1, float_val=[1, 2]),
        TensorProto(dtype=1),
        TensorProto(dtype=1, tensor_content=b"12345"),
        TensorProto(dtype=99, float_val=[1]),
    ]
    written = [Summary.Value(tag="t", tensor=tensor) for tensor in tensors]
    data = framed(Event(summary=Summary(value=written)).SerializeToString())
    assert [row[0] for row in found(data, scan())[0]] == [wire.TENSOR] * len(tensors)


@each_scan
def test_values_keep_their_bytes_and_first_metadata(scan: Callable[[], Any]) -> None:
    values = [
        Summary.Value(tag="h", histo=HistogramProto(min=1, bucket=[1, 2], bucket_limit=[3, 4])),
        Summary.Value(tag="h", metadata=metadata("histograms", "first"), simple_value=2),
        Summary.Value(tag="h", metadata=metadata("scalars", "second"), simple_value=3),
        Summary.Value(tag="only", metadata=metadata("hparams")),
        Summary.Value(tag="nothing"),
    ]
    data = framed(Event(step=5, summary=Summary(value=values)).SerializeToString())
    rows, tags, *_ = found(data, scan())
    kinds = [wire.HISTOGRAM, wire.SIMPLE_VALUE, wire.SIMPLE_VALUE, wire.METADATA_ONLY]
    assert [row[0] for row in rows] == kinds
    assert [Summary.Value.FromString(row[5]) for row in rows] == values[:4]
    assert tags == {
        b"h": values[1].metadata.SerializeToString(),
        b"only": values[3].metadata.SerializeToString(),
    }


@each_scan
def test_a_start_is_a_row_without_a_tag(scan: Callable[[], Any]) -> None:
    stop = Event(step=9, session_log=SessionLog(status=SessionLog.STOP, msg="end"))
    data = file_header(7) + framed(stop.SerializeToString())
    assert [row[:3] for row in found(data, scan())[0]] == [(wire.START, None, 7)]


@each_scan
def test_tags_that_are_no_text_are_read(scan: Callable[[], Any]) -> None:
    value = field(1, PART, b"\xff\xfe") + field(2, FIXED32, struct.pack("<f", 1))
    data = framed(field(5, PART, field(1, PART, value)))
    assert found(data, scan())[0][0][1] == b"\xff\xfe"


@each_scan
def test_fields_in_unusual_forms_are_read_as_by_protobuf(scan: Callable[[], Any]) -> None:
    one = field(1, PART, field(1, PART, b"a") + field(2, FIXED32, struct.pack("<f", 1)))
    two = field(1, PART, field(7, PART, b"old name") + field(2, FIXED32, struct.pack("<f", 2)))
    payload = field(5, PART, one) + field(2, VARINT, 3) + field(5, PART, two) + field(40, PART, b"")
    assert len(Event.FromString(payload).summary.value) == 2
    result = found(scalar("before", 1, 1) + framed(payload) + scalar("after", 4, 4), scan())
    expected = [("before", 1, 1.0), ("a", 3, 1.0), ("old name", 3, 2.0), ("after", 4, 4.0)]
    assert scalars(result) == expected


# ---- Where reading ends ----


RECORDS = [scalar("loss", step, step / 2) for step in range(5)]


@each_scan
@pytest.mark.parametrize("missing", range(1, len(RECORDS[-1])))
def test_a_torn_end_is_left(scan: Callable[[], Any], missing: int) -> None:
    data = b"".join(RECORDS)[:-missing]
    rows, _, end, unread, reason = found(data, scan())
    assert (len(rows), end, reason) == (4, sum(map(len, RECORDS[:4])), "torn")
    assert unread == len(RECORDS[-1]) - missing


@each_scan
@pytest.mark.parametrize("place", range(len(RECORDS[2])))
def test_no_damaged_record_is_read(scan: Callable[[], Any], place: int) -> None:
    damaged = bytearray(RECORDS[2])
    damaged[place] ^= 1
    data = b"".join([*RECORDS[:2], damaged, *RECORDS[3:]])
    rows, _, end, unread, reason = found(data, scan())
    assert (len(rows), end, reason) == (2, sum(map(len, RECORDS[:2])), "damaged")
    assert unread == len(data) - end


@each_scan
def test_bytes_that_are_no_event_are_damage(scan: Callable[[], Any]) -> None:
    data = RECORDS[0] + framed(b"\x2a\xff") + RECORDS[1]
    rows, _, end, _, reason = found(data, scan())
    assert (len(rows), end, reason) == (1, len(RECORDS[0]), "damaged")


class CountingFile(io.BytesIO):
    """A file that notes the largest number of bytes it was asked for."""

    largest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.largest = max(self.largest, -1 if size is None else size)
        return super().read(size)


@each_scan
@pytest.mark.parametrize("length", [2**31, 2**62, 2**63, 2**64 - 16, 2**64 - 1])
@pytest.mark.parametrize("following", [50, 5000])
def test_a_forged_length_costs_no_memory(
    scan: Callable[[], Any], length: int, following: int
) -> None:
    file = CountingFile(RECORDS[0] + forged(length) + b"x" * following)
    pass_ = Scan(file, piece_bytes=1000, scan_piece=scan())
    assert sum(map(len, pass_)) == 1
    assert (pass_.end, pass_.reason) == (len(RECORDS[0]), "torn")
    assert file.largest <= 1000


@each_scan
def test_a_record_longer_than_a_piece_is_read(scan: Callable[[], Any]) -> None:
    long = scalar("x" * 10_000, 1, 1)
    result = found(RECORDS[0] + long + RECORDS[1], scan(), piece_bytes=100)
    assert [step for _, step, _ in scalars(result)] == [0, 1, 1]


@each_scan
def test_a_growing_file_is_read_on_from_the_end(scan: Callable[[], Any]) -> None:
    data = b"".join(RECORDS)
    first = found(data[:-3], scan())
    second = found(data, scan(), begin=first[2])
    assert scalars(first) + scalars(second) == [("loss", step, step / 2) for step in range(5)]
    assert second[2:] == (len(data), 0, "")


@each_scan
def test_an_empty_file_has_nothing(scan: Callable[[], Any]) -> None:
    assert found(b"", scan()) == ([], {}, 0, 0, "")


@each_scan
def test_reading_stops_where_it_is_asked_to(scan: Callable[[], Any]) -> None:
    data = b"".join(RECORDS)
    pass_ = Scan(io.BytesIO(data), 0, len(data) - len(RECORDS[-1]), scan_piece=scan())
    assert sum(map(len, pass_)) == 4
    assert (pass_.unread_bytes, pass_.reason) == (0, "")


# ---- Bounds of the compiled scanner ----


@compiled
def test_a_record_of_more_values_than_rows_is_read_whole() -> None:
    values = [Summary.Value(tag=f"t{n % 7}", simple_value=n) for n in range(1000)]
    data = framed(Event(step=2, summary=Summary(value=values)).SerializeToString())
    result = found(data + scalar("next", 3, 3), compiled_scan(rows=9))
    assert [value for *_, value in scalars(result)] == [*map(float, range(1000)), 3.0]


@compiled
def test_a_batch_has_no_more_rows_than_allowed() -> None:
    data = b"".join(scalar(f"t{step}", step, 0) for step in range(50))
    pass_ = Scan(io.BytesIO(data), scan_piece=compiled_scan(rows=8))
    assert max(len(batch) for batch in pass_) == 8
