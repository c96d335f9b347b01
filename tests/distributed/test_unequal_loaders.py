"""Ranks whose loaders differ in length take their snapshots at the same steps."""

from pathlib import Path

from tests.distributed.launch import launch
from tests.events import event_files, histograms


def test_ranks_of_unequal_epochs_agree_on_the_snapshots(tmp_path: Path) -> None:
    verdict = launch("unequal_loaders.py", str(tmp_path), "epoch", "1")
    assert verdict == {"step": 12, "types": ["DTensor"]}
    (file,) = event_files(tmp_path)
    shown = histograms(file)
    # World rank zero's epoch has five steps.
    for target in ("parameters", "gradients"):
        assert {step for tag, step in shown if tag.startswith(target)} == {5, 10, 12}
    assert shown["parameters/classifier.weight", 5].count == 32
