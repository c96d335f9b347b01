"""Tables in each format, read back by what reads it."""

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbtrainer.command_line.table_formats import (
    Column,
    CsvWriter,
    JsonWriter,
    ParquetWriter,
    TableWriter,
)
from tbtrainer.reading import TableChunk

COLUMNS = (
    *(Column("tag", "tag"), Column("step", "int"), Column("wall_time", "float")),
    *(Column("value", "float"), Column("session", "int"), Column("text", "text")),
    *(Column("edges", "floats"), Column("files", "texts"), Column("any", "value")),
)
TOKEN = "hf_" + "aB3dE5fG7hI9jK1lM2nO4pQ6rS8tU0vW1x"
NAMES = ['a,"b"', "eval/loss\n\x1b[2J", "=1+1"]
SHOWN = ['a,"b"', "eval/loss\\n\\x1b[2J", "=1+1"]
VALUES = [0.1, math.nan, -math.inf, 1e300, 0.10000000149011612]
STARTS = [0, None, 2**40, 7, None]
TEXTS = ["a,b", "# Title\n\nwords", 'say "a"', "", f"token={TOKEN}"]
TEXTS_SHOWN = [*TEXTS[:4], "token=<hidden>"]
EDGES = [np.array([0.1, 0.2]), np.zeros(0), np.array([math.inf]), np.ones(1), np.ones(3)]
FILES = [("a",), (), ("b,c", 'd"'), ("e",), ("f\x1b",)]
ANY = [1, "text", {"rate": 0.5, "loss": math.nan}, True, [None, "x"]]


def write(writer: TableWriter) -> None:
    """Two chunks. The tags of the second are not yet known when the first is written."""
    for begin, end, known in ((0, 2, 2), (2, 5, 3)):
        rows = np.arange(begin, end)
        columns: dict[str, Any] = {
            "tag": (rows % 3).astype(np.int32),
            "step": STARTS[begin:end],
            "wall_time": rows + 0.1,
            "value": np.array(VALUES)[rows],
            "session": (rows % 2).astype(np.int32),
            "text": TEXTS[begin:end],
            "edges": EDGES[begin:end],
            "files": FILES[begin:end],
            "any": ANY[begin:end],
        }
        writer.write(TableChunk(NAMES[:known], columns))
    writer.close()


def check(rows: list[dict[str, Any]], tags: list[str], texts: list[str]) -> None:
    """Checks the columns that every format reads back as they were."""
    assert [row["tag"] for row in rows] == [tags[number % 3] for number in range(5)]
    assert [row["step"] for row in rows] == STARTS
    assert [row["session"] for row in rows] == [0, 1, 0, 1, 0]
    assert [row["wall_time"] for row in rows] == [number + 0.1 for number in range(5)]
    assert np.array_equal([float(row["value"]) for row in rows], VALUES, equal_nan=True)
    assert [row["text"] for row in rows] == texts
    for row, edges, files in zip(rows, EDGES, FILES, strict=True):
        assert [float(edge) for edge in row["edges"]] == edges.tolist()
        assert tuple(row["files"]) == files


def test_csv_keeps_every_digit() -> None:
    file = io.StringIO()
    write(CsvWriter(file.write, COLUMNS))
    assert file.getvalue().replace("\n", "").isprintable()
    assert file.getvalue().count("\n") == 6
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(file.getvalue())))
    for row in rows:
        row["step"] = int(row["step"]) if row["step"] else None
        row |= {"session": int(row["session"]), "wall_time": float(row["wall_time"])}
        row |= {name: json.loads(row[name]) for name in ("edges", "files")}
    check(rows, SHOWN, [text.replace("\n", "\\n") for text in TEXTS_SHOWN])
    assert [row["any"] for row in rows] == [
        *("1", "text", '{"rate": 0.5, "loss": "NaN"}', "true", '[null, "x"]')
    ]


def test_json_keeps_every_digit() -> None:
    file = io.StringIO()
    write(JsonWriter(file.write, COLUMNS))
    lines = file.getvalue().splitlines()
    assert all(line.isprintable() for line in lines)
    rows = [json.loads(line) for line in lines]
    check(rows, NAMES, TEXTS_SHOWN)
    assert [row["any"] for row in rows] == [*ANY[:2], {"rate": 0.5, "loss": "NaN"}, *ANY[3:]]
    assert [list(row) for row in rows] == [[column.name for column in COLUMNS]] * 5


def test_parquet_keeps_every_digit(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "table.parquet"
    write(ParquetWriter(str(path), COLUMNS))
    rows = parquet.read_table(path).to_pylist()
    check(rows, SHOWN, TEXTS_SHOWN)
    assert [row["any"] for row in rows][:2] == ["1", "text"]


@pytest.mark.parametrize("make", [CsvWriter, JsonWriter])
def test_a_chunk_of_many_rows_is_written_whole(make: type[CsvWriter | JsonWriter]) -> None:
    file = io.StringIO()
    steps = np.arange(10_000)
    make(file.write, (Column("step", "int"),)).write(TableChunk([], {"step": steps}))
    numbers = re.findall(r"[0-9]+", file.getvalue())
    assert list(map(int, numbers)) == steps.tolist()


def test_half_a_character_can_be_written(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = (Column("text", "text"), Column("any", "value"))
    chunk = TableChunk([], {"text": ["a\ud800"], "any": ["b\udfff"]})
    for name, make in (("csv", CsvWriter), ("json", JsonWriter)):
        with open(tmp_path / name, "w", encoding="utf-8") as file:
            make(file.write, columns).write(chunk)
    writer = ParquetWriter(str(tmp_path / "parquet"), columns)
    writer.write(chunk)
    writer.close()
    assert parquet.read_table(tmp_path / "parquet").to_pylist() == [
        {"text": "a\\ud800", "any": "b\\udfff"}
    ]
