"""Observers that a user adds under torchrun."""

from pathlib import Path

from tests.distributed.launch import launch
from tests.events import event_files, scalars


def test_an_observer_on_rank_zero_alone_keeps_no_rank_waiting(tmp_path: Path) -> None:
    assert launch("observer_on_rank_zero.py", str(tmp_path)) == [4, 4]
    (file,) = event_files(tmp_path)
    mine = [(tag, step) for tag, step, _ in scalars(file) if tag.startswith("mine/")]
    assert mine == [("mine/step", step) for step in (1, 2, 3, 4)]
