"""Snapshots of every target at every step change no bit, also in modes that are not `Trainer`'s."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.launch import launch
from tests.events import event_files, histograms

MODES = [
    "hsdp",
    "hsdp-lora",
    "fsdp1-hybrid",
    "fsdp2-tensor-parallel",
    "fsdp1-flat-four-ranks",
    "tensor-parallel",
    "fsdp2-lora",
    "fsdp1-lora",
]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Whether the state of each rank is equal, by mode; and the directory of the runs."""
    directory = tmp_path_factory.mktemp("unchanged")
    return launch("unchanged_modes.py", str(directory), *MODES, processes=4), directory


@pytest.mark.parametrize("mode", MODES)
def test_the_training_is_unchanged_on_every_rank(started: Any, mode: str) -> None:
    verdicts, _ = started
    assert verdicts[mode] == [True] * 4


@pytest.mark.parametrize("mode", MODES)
def test_every_target_was_shown_at_every_step(started: Any, mode: str) -> None:
    _, directory = started
    (file,) = event_files(directory / mode)
    shown = {(tag.split("/")[0], step) for tag, step in histograms(file)}
    targets = ("parameters", "gradients", "updates", "optimizer_state")
    assert shown == {(target, step) for target in targets for step in (1, 2, 3)}
