"""Names of event files: read in the order of writing, and no other writer's."""

import time
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from tbtrainer.event_file.names import event_file_name
from tbtrainer.run import RunWriter
from tests.events import event_files, scalars


@pytest.mark.parametrize("ahead", [0, 86_400])
def test_an_event_file_is_named_after_all_that_are_there(ahead: int) -> None:
    newest = f"events.out.tfevents.{int(time.time()) + ahead:010d}.host.1.0"
    assert event_file_name([newest, "notes.txt"], 0) > newest


def test_a_file_dated_beyond_every_clock_is_followed_too() -> None:
    newest = "events.out.tfevents.9999999999.host.1.0"
    following = event_file_name([newest], 0)
    assert following > newest
    assert event_file_name([newest, following], 0) > following


def test_a_stock_writer_takes_no_file_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    for number in range(3):  # Whatever numbers the two have come to in this process.
        run = tmp_path / str(number)
        ours = RunWriter(str(run))
        ours.add_scalar("ours", 1.0, 1)
        ours.close()
        for _ in range(20):
            stock = SummaryWriter(str(run))
            stock.add_scalar("stock", 1.0, 1)
            stock.close()
        shown = [tag for file in event_files(run) for tag, _, _ in scalars(file)]
        assert shown.count("ours") == 1
