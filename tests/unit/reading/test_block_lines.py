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
