"""Tables as CSV, JSON lines and Parquet, chunk by chunk.

Every text is written without its secrets. In CSV and JSON, which a terminal may show, it is on one
line and has no control characters.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tbtrainer.command_line.exit_codes import UsageError
from tbtrainer.command_line.terminal_text import json_line, printable
from tbtrainer.reading import TableChunk
from tbtrainer.redaction import redacted, redacted_name, redacted_text

# How many rows become text at a time: objects of Python need several times the memory of arrays.
_TEXT_ROWS = 4096

# "tag": indices into the names of a chunk. "int": may have `None`. "value": anything that JSON has.
ColumnType = Literal["tag", "int", "float", "text", "floats", "texts", "value"]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its name.
        type: What its cells are.
    """

    name: str
    type: ColumnType


class TableWriter(Protocol):
    """Writes the chunks of a table in one format."""

    def write(self, chunk: TableChunk) -> None:
        """Writes the rows of a chunk, which has the columns of the table."""

    def close(self) -> None:
        """Writes what the format needs at its end."""


class CsvWriter:
    """Writes CSV with a header. Floats have all their digits; NaN is `nan`. Lists are JSON.

    Args:
        write: Called with the text of some rows.
        columns: Of the table.
    """

    def __init__(self, write: Callable[[str], object], columns: Sequence[Column]) -> None:
        self._write, self._columns = write, columns
        self._tags = _TagCells(lambda tag: _quoted(printable(redacted_name(tag))))
        write(",".join(column.name for column in columns) + "\n")

    def write(self, chunk: TableChunk) -> None:
        """Writes the rows of a chunk."""
        tags = self._tags.of(chunk.names)
        for columns in _pieces(chunk):
            cells = [_csv_cells(c.type, columns[c.name], tags) for c in self._columns]
            self._write("".join([f"{row}\n" for row in map(",".join, zip(*cells, strict=True))]))

    def close(self) -> None:
        """Writes nothing."""


class JsonWriter:
    """Writes one JSON object per row and line. NaN is the string "NaN".

    Args:
        write: Called with the text of some rows.
        columns: Of the table.
    """

    def __init__(self, write: Callable[[str], object], columns: Sequence[Column]) -> None:
        self._write, self._columns = write, columns
        self._tags = _TagCells(lambda tag: json_line(redacted_name(tag)))
        self._row = "{" + ", ".join(f'"{column.name}": %s' for column in columns) + "}\n"

    def write(self, chunk: TableChunk) -> None:
        """Writes the rows of a chunk."""
        tags = self._tags.of(chunk.names)
        for columns in _pieces(chunk):
            cells = [_json_cells(c.type, columns[c.name], tags) for c in self._columns]
            self._write("".join([self._row % row for row in zip(*cells, strict=True)]))

    def close(self) -> None:
        """Writes nothing."""


class ParquetWriter:
    """Writes a Parquet file, one row group per chunk. Needs pyarrow.

    Args:
        path: The file.
        columns: Of the table.

    Raises:
        UsageError: pyarrow is not installed.
    """

    def __init__(self, path: str, columns: Sequence[Column]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise UsageError(
                "--parquet needs pyarrow, which is not installed: pip install pyarrow. --csv and "
                "--json do without."
            ) from None
        text = pyarrow.string()
        types = {
            "tag": pyarrow.dictionary(pyarrow.int32(), text),
            "int": pyarrow.int64(),
            "float": pyarrow.float64(),
            "text": text,
            "floats": pyarrow.list_(pyarrow.float64()),
            "texts": pyarrow.list_(text),
            "value": text,
        }
        # A session is an index, as in the frames.
        types_of = {column.name: types[column.type] for column in columns}
        if "session" in types_of:
            types_of["session"] = pyarrow.int32()
        self._pyarrow, self._columns = pyarrow, columns
        self._schema = pyarrow.schema(list(types_of.items()))
        self._file = pyarrow.parquet.ParquetWriter(path, self._schema)
        self._tags = _TagCells(lambda tag: printable(redacted_name(tag)))

    def write(self, chunk: TableChunk) -> None:
        """Writes the rows of a chunk."""
        tags = self._tags.of(chunk.names)
        arrays = {c.name: self._array(c.type, chunk.columns[c.name], tags) for c in self._columns}
        self._file.write_table(self._pyarrow.table(arrays, schema=self._schema))

    def close(self) -> None:
        """Writes the end of the file."""
        self._file.close()

    def _array(self, kind: ColumnType, values: Any, tags: list[str]) -> Any:
        if kind == "tag":
            return self._pyarrow.DictionaryArray.from_arrays(values, tags)
        if kind == "text":
            return [_encodable(redacted_text(value)) for value in values]
        if kind == "texts":
            return [[_encodable(redacted_text(text)) for text in value] for value in values]
        if kind == "value":
            return [_encodable(_value_text(value)) for value in values]
        return values


# ---- Cells ----


class _TagCells:
    """The cells of the tags of a run, each made once: the names grow while a run is read.

    Args:
        cell: Returns the cell of a tag.
    """

    def __init__(self, cell: Callable[[str], str]) -> None:
        self._cell = cell
        self._cells: list[str] = []

    def of(self, names: Sequence[str]) -> list[str]:
        """Returns the cells of all tags."""
        self._cells += map(self._cell, names[len(self._cells) :])
        return self._cells


def _pieces(chunk: TableChunk) -> Iterator[dict[str, list[Any]]]:
    """Yields the columns of a chunk as lists of objects of Python, some rows at a time."""
    for begin in range(0, len(chunk), _TEXT_ROWS):
        parts = {name: values[begin : begin + _TEXT_ROWS] for name, values in chunk.columns.items()}
        yield {
            name: part if isinstance(part, list) else part.tolist() for name, part in parts.items()
        }


def _csv_cells(kind: ColumnType, values: list[Any], tags: list[str]) -> Iterable[str]:
    if kind == "tag":
        return [tags[number] for number in values]
    if kind == "int":
        return ["" if value is None else str(value) for value in values]
    if kind == "float":
        return map(repr, values)
    if kind == "text":
        return [_quoted(printable(redacted_text(value))) for value in values]
    if kind == "value":
        return [_quoted(printable(_value_text(value))) for value in values]
    return [_quoted(cell) for cell in _json_cells(kind, values, tags)]


def _json_cells(kind: ColumnType, values: list[Any], tags: list[str]) -> Iterable[str]:
    if kind == "tag":
        return [tags[number] for number in values]
    if kind == "int":
        return ["null" if value is None else str(value) for value in values]
    if kind == "float":
        return [repr(value) if math.isfinite(value) else json_line(value) for value in values]
    if kind == "text":
        return [json_line(redacted_text(value)) for value in values]
    if kind == "floats":
        return [json_line(value.tolist()) for value in values]
    return [json_line(redacted(value)) for value in values]


def _value_text(value: Any) -> str:
    """Returns a value where a format has texts only: a text as it is, and anything else as JSON."""
    return redacted_text(value) if isinstance(value, str) else json_line(redacted(value))


def _quoted(text: str) -> str:
    """Returns a cell of CSV, in quotes if it has to be."""
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"') else text


def _encodable(text: str) -> str:
    """Returns a text that UTF-8 has: JSON may hold halves of characters."""
    return text.encode(errors="backslashreplace").decode()
