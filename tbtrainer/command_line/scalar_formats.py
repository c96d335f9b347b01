"""Scalars as CSV, JSON lines and Parquet, chunk by chunk."""

import math
from collections.abc import Callable
from typing import Any, Protocol

from tbtrainer.command_line.exit_codes import UsageError
from tbtrainer.command_line.terminal_text import json_line, printable
from tbtrainer.reading import ScalarChunk
from tbtrainer.redaction import redacted_name

COLUMNS = ("tag", "step", "wall_time", "value", "session")


class ChunkWriter(Protocol):
    """Writes chunks of scalars in one format."""

    def write(self, chunk: ScalarChunk) -> None:
        """Writes the scalars of a chunk."""

    def close(self) -> None:
        """Writes what the format needs at its end."""


class TextWriter:
    """Writes scalars as lines of text.

    Args:
        write: Called with one text per chunk.
        header: The first line; empty for none.
        row: Returns the line of a scalar.
        tag_text: Returns a tag as the format writes it.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        header: str,
        row: Callable[[str, int, float, float, int], str],
        tag_text: Callable[[str], str],
    ) -> None:
        self._write, self._row, self._tag_text = write, row, tag_text
        self._tags: list[str] = []
        if header:
            write(header)

    def write(self, chunk: ScalarChunk) -> None:
        """Writes the scalars of a chunk."""
        self._tags += [self._tag_text(name) for name in chunk.names[len(self._tags) :]]
        tags = [self._tags[number] for number in chunk.tag.tolist()]
        columns = (chunk.step, chunk.wall_time, chunk.value, chunk.session)
        rows = zip(tags, *(column.tolist() for column in columns), strict=True)
        self._write("".join([self._row(*row) for row in rows]))

    def close(self) -> None:
        """Writes nothing."""


def csv_writer(write: Callable[[str], object]) -> TextWriter:
    """Returns the writer of CSV with a header. Floats have all their digits; NaN is `nan`."""
    return TextWriter(write, ",".join(COLUMNS) + "\n", _csv_row, _csv_tag)


def json_writer(write: Callable[[str], object]) -> TextWriter:
    """Returns the writer of one JSON object per scalar and line. NaN is the string "NaN"."""
    return TextWriter(write, "", _json_row, lambda tag: json_line(redacted_name(tag)))


class ParquetWriter:
    """Writes a Parquet file. Needs pyarrow.

    Args:
        path: The file.

    Raises:
        UsageError: pyarrow is not installed.
    """

    def __init__(self, path: str) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise UsageError(
                "--parquet needs pyarrow, which is not installed: pip install pyarrow. --csv and "
                "--json do without."
            ) from None
        self._pyarrow = pyarrow
        types = (pyarrow.int64(), pyarrow.float64(), pyarrow.float64(), pyarrow.int32())
        text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
        self._schema = pyarrow.schema(list(zip(COLUMNS, (text, *types), strict=True)))
        self._file = pyarrow.parquet.ParquetWriter(path, self._schema)
        self._tags: list[str] = []

    def write(self, chunk: ScalarChunk) -> None:
        """Writes the scalars of a chunk as one row group."""
        names = chunk.names[len(self._tags) :]
        self._tags += [printable(redacted_name(name)) for name in names]
        tags: Any = self._pyarrow.DictionaryArray.from_arrays(chunk.tag, self._tags)
        columns = (tags, chunk.step, chunk.wall_time, chunk.value, chunk.session)
        self._file.write_table(
            self._pyarrow.table(dict(zip(COLUMNS, columns, strict=True)), schema=self._schema)
        )

    def close(self) -> None:
        """Writes the end of the file."""
        self._file.close()


def _csv_row(tag: str, step: int, wall_time: float, value: float, session: int) -> str:
    return f"{tag},{step},{wall_time!r},{value!r},{session}\n"


def _csv_tag(tag: str) -> str:
    text = printable(redacted_name(tag))
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"') else text


def _json_row(tag: str, step: int, wall_time: float, value: float, session: int) -> str:
    return (
        f'{{"tag": {tag}, "step": {step}, "wall_time": {_json_number(wall_time)}, '
        f'"value": {_json_number(value)}, "session": {session}}}\n'
    )


def _json_number(value: float) -> str:
    return repr(value) if math.isfinite(value) else json_line(value)
