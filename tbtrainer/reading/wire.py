"""The outer messages of an event file: an event, its values, and the field that holds each.

The messages of TensorBoard would be parsed down to the last bucket. These have the same fields on
the wire, but everything inside of a value stays bytes until it is decoded.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# The field of `Summary.Value` that holds a value: its number on the wire.
METADATA_ONLY = 0
SIMPLE_VALUE = 2
OLD_HISTOGRAM = 3
IMAGE = 4
HISTOGRAM = 5
AUDIO = 6
TENSOR = 8
# Not on the wire: a tensor of one number. It is a scalar if the tag's metadata says so.
NUMBER = 18
# Not on the wire: the START event of a session, which has no value.
START = 100
# All of these are smaller, so `tag * FIELDS + field` is one number for both.
FIELDS = 128

# `SessionLog.START`.
START_STATUS = 1
# A larger tensor is never taken for one number.
MOST_NUMBER_BYTES = 64

# The fields of a histogram before its buckets, by number from 1.
HISTOGRAM_NUMBERS = ("min", "max", "num", "sum", "sum_squares")

_PACKAGE = "tbtrainer.reading"
_TYPES = {
    "double": descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
    "float": descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
}


def _add_message(
    file: descriptor_pb2.FileDescriptorProto,
    name: str,
    fields: dict[str, tuple[int, str]],
    oneof: dict[str, tuple[int, str]],
) -> None:
    """Adds a message to a file. A type that is no key of `_TYPES` is the name of a message."""
    message = file.message_type.add(name=name)
    if oneof:
        message.oneof_decl.add(name="what")
    for field_name, (number, type_name) in {**fields, **oneof}.items():
        field = message.field.add(name=field_name, number=number)
        repeated = type_name.startswith("repeated ")
        field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        element = type_name.removeprefix("repeated ")
        if element in _TYPES:
            field.type = _TYPES[element]
        else:
            field.type = field.TYPE_MESSAGE
            field.type_name = f".{_PACKAGE}.{element}"
        if field_name in oneof:
            field.oneof_index = 0


def _messages() -> dict[str, Any]:
    """Makes the classes, in a pool of their own: TensorBoard's messages are not touched."""
    file = descriptor_pb2.FileDescriptorProto(
        name="tbtrainer/reading/wire.proto", package=_PACKAGE, syntax="proto3"
    )
    _add_message(
        file,
        "Event",
        {"wall_time": (1, "double"), "step": (2, "int64")},
        {
            "file_version": (3, "bytes"),
            "graph_def": (4, "bytes"),
            "summary": (5, "Summary"),
            "log_message": (6, "bytes"),
            "session_log": (7, "SessionLog"),
            "tagged_run_metadata": (8, "bytes"),
            "meta_graph_def": (9, "bytes"),
            "source_metadata": (10, "bytes"),
        },
    )
    _add_message(file, "SessionLog", {"status": (1, "int64")}, {})
    _add_message(file, "Summary", {"value": (1, "repeated bytes")}, {})
    _add_message(
        file,
        "Value",
        {"tag": (1, "bytes"), "node_name": (7, "bytes"), "metadata": (9, "bytes")},
        {
            "simple_value": (2, "float"),
            "obsolete_old_style_histogram": (3, "bytes"),
            "image": (4, "bytes"),
            "histo": (5, "bytes"),
            "audio": (6, "bytes"),
            "tensor": (8, "bytes"),
        },
    )
    # A packed list of doubles is a part like any other. TensorBoard's message would make a Python
    # object of each number.
    _add_message(
        file,
        "Histogram",
        {
            **{name: (number, "double") for number, name in enumerate(HISTOGRAM_NUMBERS, 1)},
            "bucket_limit": (6, "bytes"),
            "bucket": (7, "bytes"),
        },
        {},
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in ("Event", "Value", "Histogram")
    }


_CLASSES = _messages()
WireEvent: Any = _CLASSES["Event"]
WireValue: Any = _CLASSES["Value"]
WireHistogram: Any = _CLASSES["Histogram"]
FIELD_OF_NAME = {
    "simple_value": SIMPLE_VALUE,
    "obsolete_old_style_histogram": OLD_HISTOGRAM,
    "image": IMAGE,
    "histo": HISTOGRAM,
    "audio": AUDIO,
    "tensor": TENSOR,
}
