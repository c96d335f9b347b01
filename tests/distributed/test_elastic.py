"""A run that torchrun restarts after a crash continues as one curve."""

from pathlib import Path

from tests.distributed.launch import launch
from tests.events import event_files, histograms, scalars


def test_a_training_that_torchrun_restarts_is_one_clean_curve(tmp_path: Path) -> None:
    assert launch("elastic_training.py", str(tmp_path), restarts=1) == [10]
    files = event_files(tmp_path)
    assert len(files) == 2
    assert len({file.parent for file in files}) == 1
    steps = [step for file in files for tag, step, _ in scalars(file) if tag == "train/loss"]
    assert steps == [2, 4, 6, 8, 10]
    shown = [key for file in files for key in histograms(file)]
    assert len(shown) == len(set(shown))
    assert {step for _, step in shown} == {3, 6, 9, 10}
