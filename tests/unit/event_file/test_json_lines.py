"""A line is valid JSON without secrets, and only lines of a run are taken for such."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbtrainer.event_file.json_lines import json_line, lines_of_a_run, step_of_line

LINE = b'{"step": 3, "time": 1.5, "loss": 2.0}\n'


def strict(line: bytes) -> Any:
    """Reads JSON as other languages do: without NaN and Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize(
    "value, expected",
    [
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        ([1.0, {"deep": (math.nan,)}], [1.0, {"deep": ["NaN"]}]),
        (np.float32(2.5), 2.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([1.0, np.inf]), [1.0, "Infinity"]),
        (None, None),
        (True, True),
        ("ä\ud800", "ä\ud800"),
        pytest.param(object(), "<object>", id="object"),
    ],
    ids=repr,
)
def test_a_value_is_written_as_strict_json(value: Any, expected: Any) -> None:
    line = json_line({"value": value}, 3, 1.5)
    assert strict(line) == {"step": 3, "time": 1.5, "value": expected}


def test_step_and_time_are_the_first_keys() -> None:
    assert list(strict(json_line({"a": 1, "b": 2}, 3, 1.5))) == ["step", "time", "a", "b"]


def test_a_text_is_one_line_without_secrets() -> None:
    values = {"url": "s3://id:MARKER7f3a9c@bucket", "deep": [{"db_password": "MARKER7f3a9c"}]}
    line = json_line({**values, "text": "two\nlines"}, 1, 0.0)
    assert line.count(b"\n") == 1
    assert b"MARKER7f3a9c" not in line


def test_a_structure_that_contains_itself_is_written() -> None:
    values: dict[str, Any] = {}
    values["self"] = values
    assert strict(json_line(values, 1, 0.0))["step"] == 1


@given(st.lists(st.integers(0, 2**62)))
def test_written_lines_are_read_back(steps: list[int]) -> None:
    lines = [json_line({"loss": 1.0}, step, 0.5) for step in steps]
    assert lines_of_a_run(b"".join(lines)) == lines
    assert [step_of_line(line) for line in lines] == steps


@pytest.mark.parametrize("length", range(len(LINE)))
def test_only_an_incomplete_last_line_is_left_out(length: int) -> None:
    whole = length == len(LINE) - 1  # Only the line break is missing.
    assert lines_of_a_run(LINE + LINE[:length]) == [LINE] * (2 if whole else 1)


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\0\0",
        b"\0" * 50,
        b"text",
        b"text\n",
        b"[1, 2]\n",
        b"{}\n" + LINE,
        b'{"step": 1, "time": 1' + LINE,
        b'{"step": "1", "time": 1}\n' + LINE,
        b'{"step": true, "time": 1}\n' + LINE,
        b'{"step": 1}\n' + LINE,
        b"[" * 100_000 + b"\n" + LINE,
        b'{"step": ' + b"9" * 10_000 + b"}\n" + LINE,
        LINE + b"\n" + LINE,
    ],
    ids=lambda data: repr(data[:30]),
)
def test_a_file_of_another_program_is_recognised(data: bytes) -> None:
    assert lines_of_a_run(data) is None
