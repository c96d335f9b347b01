"""The numbers of the blocks of a run are read back as a frame."""

import json
import math
from pathlib import Path
from typing import Any

from tbtrainer.reading.block_lines import block_lines, blocks_frame
from tbtrainer.reading.run_files import folder_of


def line(step: int, time: float, **values: Any) -> str:
    numbers = {"blocks": ["h.0", "h.1"], "rms": [1.0, None], "nonfinite": [0, 3], **values}
    return json.dumps({"step": step, "time": time, **numbers}) + "\n"


def written(directory: Path, name: str, *lines: str) -> None:
    (directory / name).write_text("".join(lines))


def test_each_block_of_a_line_is_a_row(tmp_path: Path) -> None:
    written(tmp_path, "blocks-updates.jsonl", line(2, 1.0, ratio=["Infinity", 0.5]))
    frame = blocks_frame(block_lines(folder_of(tmp_path)))
    assert frame["target"].tolist() == ["updates", "updates"]
    assert frame["block"].tolist() == ["h.0", "h.1"]
    assert frame["rms"][0] == 1.0 and math.isnan(frame["rms"][1])
    assert frame["ratio"].tolist() == [math.inf, 0.5]
    assert frame["kurtosis"].isna().all()


def test_lines_that_were_written_again_count_once(tmp_path: Path) -> None:
    lines = [line(2, 1.0), line(4, 2.0), line(6, 3.0), line(4, 4.0), line(5, 5.0)]
    written(tmp_path, "blocks-gradients.jsonl", *lines)
    written(tmp_path, "blocks-updates.jsonl", line(3, 2.5))
    found = block_lines(folder_of(tmp_path))
    assert [(one["step"], one["time"]) for one in found] == [(2, 1.0), (3, 2.5), (4, 4.0), (5, 5.0)]
    assert [one["step"] for one in block_lines(folder_of(tmp_path), "updates")] == [3]


def test_a_clock_that_was_set_back_hides_no_line(tmp_path: Path) -> None:
    lines = [line(step, 1000.0 + step if step < 5 else step) for step in range(1, 11)]
    written(tmp_path, "blocks-gradients.jsonl", *lines)
    found = block_lines(folder_of(tmp_path))
    assert [one["step"] for one in found] == list(range(1, 11))


def test_a_file_with_a_number_continues_the_one_without(tmp_path: Path) -> None:
    written(tmp_path, "blocks-gradients-1.jsonl", line(3, 1.0), line(5, 2.0))
    written(tmp_path, "blocks-gradients.jsonl", line(2, 8.0), line(4, 9.0))
    found = block_lines(folder_of(tmp_path))
    assert [(one["step"], one["time"]) for one in found] == [(2, 8.0), (3, 1.0), (5, 2.0)]


def test_lines_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    lines = [line(10**30, 1.0), line(-1, 9e99), line(3, math.nan), line(4, 10**400), line(5, 1.0)]
    written(tmp_path, "blocks-gradients.jsonl", *lines)
    assert set(blocks_frame(block_lines(folder_of(tmp_path)))["step"]) == {5}


def test_a_file_that_is_too_long_is_left_out(tmp_path: Path) -> None:
    written(tmp_path, "blocks-gradients.jsonl", line(1, 1.0, rest="x" * 2**20))
    assert block_lines(folder_of(tmp_path)) == []


def test_removed_lines_are_there_if_asked_for(tmp_path: Path) -> None:
    written(tmp_path, "blocks-gradients.jsonl", line(2, 1.0))
    written(tmp_path, "blocks-gradients.jsonl.removed-after-2.00000001", line(4, 2.0))
    assert [one["step"] for one in block_lines(folder_of(tmp_path))] == [2]
    found = block_lines(folder_of(tmp_path), with_removed=True)
    assert [one["step"] for one in found] == [2, 4]


def test_files_of_other_programs_are_left_out(tmp_path: Path) -> None:
    written(tmp_path, "blocks-gradients.jsonl", "not a line\n")
    written(tmp_path, "blocks-updates.jsonl", line(1, 1.0, blocks=3), line(2, 2.0, rms=[1.0]))
    frame = blocks_frame(block_lines(folder_of(tmp_path)))
    assert frame["step"].tolist() == [2, 2]
    assert frame["rms"].isna().all()
