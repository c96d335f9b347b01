"""Event files made byte by byte: of any fields, in any order, whole, torn or damaged."""

import struct
from typing import Any

from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

from tbtrainer.event_file.records import framed

VARINT, FIXED64, PART, FIXED32 = 0, 1, 2, 5


def varint(number: int) -> bytes:
    """A number as protobuf writes it, negative ones in ten bytes."""
    number &= 2**64 - 1
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, wire_type: int, content: Any) -> bytes:
    """A field of a message. `content` is an int for a varint, else bytes."""
    key = varint(number << 3 | wire_type)
    if wire_type == VARINT:
        return key + varint(content)
    return key + (varint(len(content)) if wire_type == PART else b"") + content


def forged(length: int) -> bytes:
    """The header of a record that claims a length, with a valid checksum."""
    header = struct.pack("<Q", length)
    return header + framed(header)[-4:]


def scalar(tag: str, step: int, value: float, wall_time: float = 1.5) -> bytes:
    """A record with one scalar."""
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    return framed(Event(step=step, wall_time=wall_time, summary=summary).SerializeToString())


def metadata(plugin: str, description: str = "") -> SummaryMetadata:
    """Metadata of a tag."""
    data = SummaryMetadata.PluginData(plugin_name=plugin)
    return SummaryMetadata(plugin_data=data, summary_description=description)


# ---- Bytes of any kind ----

_numbers = st.sampled_from([0, 1, 2, 127, 128, 2**31, 2**63 - 1, 2**64 - 1]) | st.integers(0, 300)
_doubles = st.floats(width=64).map(lambda number: struct.pack("<d", number))
_floats = st.floats(width=32).map(lambda number: struct.pack("<f", number))


def _fields(names: dict[int, Any]) -> st.SearchStrategy[bytes]:
    """A message of some fields; `names` has a strategy for the bytes of each field."""
    return st.lists(st.one_of(*names.values()), max_size=4).map(b"".join)


def _parts(number: int, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return content.map(lambda data: field(number, PART, data))


def _varints(number: int) -> st.SearchStrategy[bytes]:
    return _numbers.map(lambda value: field(number, VARINT, value))


_short = st.binary(max_size=6)
_tags = st.sampled_from([b"a", b"b/c", b"", b"\xff", b"long enough for two words of the hash"])
_odd = st.one_of(
    st.builds(field, st.integers(1, 20), st.just(PART), _short),
    st.builds(field, st.integers(1, 20), st.just(VARINT), _numbers),
    st.builds(field, st.integers(1, 20), st.just(FIXED32), st.binary(min_size=4, max_size=4)),
    st.builds(field, st.integers(1, 20), st.just(FIXED64), st.binary(min_size=8, max_size=8)),
    _short,
)
# No dimension, and one of 1, 0 or 2 elements.
SHAPES = [b"", *(field(2, PART, field(1, VARINT, size)) for size in (1, 0, 2))]
_dtypes = st.sampled_from([1, 1, 2, 2, 3, 7, 9, 10, 14, 19, 2**32 + 1])
tensors = _fields(
    {
        1: _dtypes.map(lambda dtype: field(1, VARINT, dtype)),
        2: _parts(2, st.sampled_from(SHAPES)),
        3: _varints(3),
        4: _parts(4, _floats | _doubles | _short),
        5: _parts(5, _floats) | _floats.map(lambda data: field(5, FIXED32, data)),
        6: _parts(6, _doubles) | _doubles.map(lambda data: field(6, FIXED64, data)),
        7: _varints(7),
        8: _parts(8, st.binary(max_size=70)),
    }
)
numbers = st.builds(
    lambda dtype, shape, content: dtype + shape + content,
    _dtypes.map(lambda dtype: field(1, VARINT, dtype)),
    st.sampled_from([b"", b"", *(field(2, PART, shape) for shape in SHAPES)]),
    st.one_of(
        _parts(4, _floats | _doubles),
        _parts(5, _floats),
        _floats.map(lambda data: field(5, FIXED32, data)),
        _parts(6, _doubles),
        _varints(10),
    ),
)
_content = st.one_of(
    _floats.map(lambda data: field(2, FIXED32, data)),
    _parts(8, numbers),
    _parts(8, tensors),
    _parts(5, _short),
    _parts(9, _short),
)
usual_values = st.builds(lambda tag, content: field(1, PART, tag) + content, _tags, _content)
# A field may be missing, or there twice.
values = st.lists(_content | _parts(1, _tags), max_size=4).map(b"".join)
summaries = st.lists(_parts(1, st.one_of(usual_values, values)), max_size=5).map(b"".join)
_stamps = st.builds(
    lambda time, step: field(1, FIXED64, time) + field(2, VARINT, step), _doubles, _numbers
)
_logs = _fields({1: st.sampled_from([0, 1, 2]).map(lambda n: field(1, VARINT, n)), 2: _odd})
_whats = st.one_of(
    _parts(5, summaries),
    _parts(5, summaries),
    _parts(7, _logs),
    _parts(3, _short),
    _parts(8, _short),
)
usual_events = st.builds(lambda stamp, what: stamp + what, _stamps, _whats)
# Parts in any order, and more than one of what an event has one of.
events = st.lists(st.one_of(_stamps, _whats, _whats, _odd), max_size=4).map(b"".join)


@st.composite
def changed_events(draw: st.DrawFn) -> bytes:
    """A usual event of which one byte is another: most are still an event."""
    data = draw(usual_events)
    place = draw(st.integers(0, len(data) - 1))
    return data[:place] + draw(st.binary(min_size=1, max_size=1)) + data[place + 1 :]


_records = st.one_of(usual_events, usual_events, events, changed_events()).map(framed)
whole_files = st.lists(_records, max_size=8).map(b"".join)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """An event file that is whole, torn, damaged, or ends with a record of a forged length."""
    data = draw(whole_files)
    fault = draw(st.sampled_from(["none", "torn", "damaged", "forged", "garbage"]))
    if fault == "torn" and data:
        return data[: draw(st.integers(0, len(data) - 1))]
    if fault == "damaged" and data:
        place = draw(st.integers(0, len(data) - 1))
        return data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :]
    if fault == "forged":
        length = draw(st.sampled_from([0, 1, 2**31, 2**62, 2**63, 2**64 - 17, 2**64 - 1]))
        return data + forged(length) + draw(_short)
    return data + draw(st.binary(max_size=40)) if fault == "garbage" else data
