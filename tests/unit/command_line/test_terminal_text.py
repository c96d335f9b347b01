"""What is printed holds no secrets, and nothing that a terminal acts on."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbtrainer.command_line.terminal_text import (
    json_line,
    number,
    printable,
    shown_tag,
    shown_text,
)

HOSTILE = "\x1b]0;title\x07\x1b[2J\r\n\x9b31m\u202e\u200b\x7f\ud800"


@given(st.text() | st.just(HOSTILE))
def test_a_terminal_acts_on_nothing(text: str) -> None:
    assert printable(text).isprintable()
    assert shown_tag(text).isprintable()
    assert shown_text(text).isprintable()


def test_ordinary_letters_stay() -> None:
    assert printable("eval/größe 損失 ▁") == "eval/größe 損失 ▁"


@given(st.text() | st.just(HOSTILE))
def test_json_has_no_control_characters(text: str) -> None:
    line = json_line({text: text})
    assert line.isascii() and line.isprintable()
    assert json.loads(line) == {text: text}


@pytest.mark.parametrize(
    "value, expected",
    [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (0.1, 0.1)],
)
def test_json_has_numbers_that_json_has(value: float, expected: object) -> None:
    assert json.loads(json_line({"a": [value]})) == {"a": [expected]}


def test_secrets_are_hidden() -> None:
    token = "hf_" + "aB3dE5fG7hI9jK1lM2nO4pQ6rS8tU0vW1x"
    assert token not in shown_tag(f"eval/{token}")
    assert token not in shown_text(f"see https://user:{token}@host")


def test_a_long_tag_is_cut() -> None:
    assert len(shown_tag("word " * 1000)) == 201


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0.123456789, 1e9, 3.0)] == ["0.12346", "1e+09", "3"]
