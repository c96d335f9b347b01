"""Scalars in each format, read back by what reads it."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from tbtrainer.command_line.scalar_formats import (
    COLUMNS,
    ChunkWriter,
    ParquetWriter,
    csv_writer,
    json_writer,
)
from tbtrainer.reading import ScalarChunk

NAMES = ['a,"b"', "eval/loss\n\x1b[2J", "=1+1"]
SHOWN = ['a,"b"', "eval/loss\\n\\x1b[2J", "=1+1"]
VALUES = [0.1, math.nan, -math.inf, 1e300, 0.10000000149011612]


def write(writer: ChunkWriter) -> None:
    """Two chunks: the tags of the second are known when the first is written."""
    for begin, end in ((0, 2), (2, 5)):
        rows = np.arange(begin, end)
        writer.write(
            ScalarChunk(
                NAMES,
                (rows % 3).astype(np.int32),
                rows + 2**40,
                rows + 0.1,
                np.array(VALUES)[rows],
                (rows % 2).astype(np.int32),
            )
        )
    writer.close()


def check(rows: list[dict[str, object]], tags: list[str]) -> None:
    assert [row["tag"] for row in rows] == [tags[number % 3] for number in range(5)]
    assert [int(str(row["step"])) for row in rows] == [number + 2**40 for number in range(5)]
    assert [int(str(row["session"])) for row in rows] == [0, 1, 0, 1, 0]
    assert [float(str(row["wall_time"])) for row in rows] == [number + 0.1 for number in range(5)]
    values = [float(str(row["value"])) for row in rows]
    assert np.array_equal(values, VALUES, equal_nan=True)


def test_csv_keeps_every_digit() -> None:
    file = io.StringIO()
    write(csv_writer(file.write))
    assert file.getvalue().replace("\n", "").isprintable()
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert tuple(rows[0]) == COLUMNS
    check(list(map(dict, rows)), SHOWN)


def test_json_keeps_every_digit() -> None:
    file = io.StringIO()
    write(json_writer(file.write))
    lines = file.getvalue().splitlines()
    assert all(line.isprintable() for line in lines)
    check([json.loads(line) for line in lines], NAMES)


def test_parquet_keeps_every_digit(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "scalars.parquet"
    write(ParquetWriter(str(path)))
    check(parquet.read_table(path).to_pylist(), SHOWN)
