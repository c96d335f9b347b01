"""Records refuse what cannot be written, where the mistake was made."""

from typing import Any

import pytest

from tbtrainer.records import JsonLine


@pytest.mark.parametrize("file", ["health.jsonl", "a-1_B.c.jsonl", "x.jsonl"])
def test_a_plain_name_is_taken(file: str) -> None:
    assert JsonLine(file, {}).file == file


@pytest.mark.parametrize(
    "file",
    [
        *("", ".jsonl", ".hidden.jsonl", "health.json", "health.jsonl\n", "health.jsonl.part"),
        *("a/b.jsonl", "../b.jsonl", "/b.jsonl", "a\\b.jsonl", "s3://b.jsonl", "a\0.jsonl"),
        *("events.out.tfevents.1.jsonl", "ä.jsonl", "x" * 65 + ".jsonl", None, 3),
    ],
    ids=repr,
)
def test_a_name_that_is_not_plain_is_refused(file: Any) -> None:
    with pytest.raises(ValueError, match="such as 'health.jsonl'"):
        JsonLine(file, {})


@pytest.mark.parametrize("key", ["step", "time"])
def test_the_keys_of_the_run_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"'{key}', which the run adds itself"):
        JsonLine("health.jsonl", {"loss": 1.0, key: 3})
