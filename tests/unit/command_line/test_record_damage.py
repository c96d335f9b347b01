"""Damaged records, and the whole ones behind them, are found wherever they are."""

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbtrainer.command_line import record_search
from tbtrainer.command_line.record_damage import MOST_PLACES, Damage, damages_of
from tbtrainer.command_line.record_search import next_whole_record
from tbtrainer.event_file.records import framed
from tests.event_runs import scalar

RECORD = scalar("loss", 3, 0.5)


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"abc",
        bytes(10_000),
        RECORD[:-1],
        RECORD[:-1] + b"\xff",
        RECORD[12:],
        b"\1" + bytes(7) + b"\0\0\0\0" + bytes(100),
        os.urandom(3000),
    ],
)
def test_the_next_record_is_found_behind_anything(junk: bytes) -> None:
    assert next_whole_record(io.BytesIO(junk + RECORD), 0) == len(junk)


@pytest.mark.parametrize("distance", range(-14, 4))
def test_a_record_across_two_blocks_is_found(
    distance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_search, "_BLOCK_BYTES", 64)
    junk = bytes(128 + distance)
    assert next_whole_record(io.BytesIO(junk + RECORD), 1) == len(junk)


@given(st.binary(max_size=200))
def test_bytes_without_a_record_have_none(data: bytes) -> None:
    assert next_whole_record(io.BytesIO(data), 0) is None


def test_every_damage_is_found() -> None:
    bad = RECORD[:-1] + b"\xff"
    data = RECORD + bad + RECORD * 2 + bad + RECORD + RECORD[:20]
    size = len(RECORD)
    assert damages_of(io.BytesIO(data), size) == [
        Damage(size, 2 * size, 2),
        Damage(4 * size, 5 * size, 1),
        Damage(6 * size, 6 * size + 20, 0),
    ]


def test_a_record_that_is_no_event_is_damaged() -> None:
    no_event = framed(b"\xff" * 30)
    data = RECORD + no_event + RECORD
    assert damages_of(io.BytesIO(data), len(RECORD)) == [
        Damage(len(RECORD), len(RECORD) + len(no_event), 1)
    ]


def test_a_file_of_damages_is_given_up() -> None:
    pair = RECORD[:-1] + b"\xff" + RECORD
    found = damages_of(io.BytesIO(pair * (MOST_PLACES + 10)), 0)
    assert len(found) == MOST_PLACES + 1
    assert found[-1].end == len(pair) * (MOST_PLACES + 10)
