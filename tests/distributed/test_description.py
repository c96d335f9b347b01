"""A rank that cannot describe its training reaches every collective of the others."""

from pathlib import Path

import pytest

from tests.distributed.launch import launch
from tests.events import event_files, histograms, scalars


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_a_rank_that_cannot_describe_its_training_hangs_none(mode: str, tmp_path: Path) -> None:
    assert launch("description_cases.py", str(tmp_path), mode, "has_length") == {"step": 10}
    (file,) = event_files(tmp_path)
    assert [step for tag, step, _ in scalars(file) if tag == "train/loss"] == [2, 4, 6, 8, 10]
    assert histograms(file) == {}
