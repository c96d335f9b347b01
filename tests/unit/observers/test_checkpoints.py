"""The card of a checkpoint."""

from pathlib import Path

from tbtrainer.observers.checkpoints import bytes_of, checkpoint_card
from tbtrainer.observers.facts import Checkpoint


def test_the_card_of_a_checkpoint_has_no_password() -> None:
    path = "https://user:MARKER7f3a9c@host/out/checkpoint-5"
    card = checkpoint_card(5, Checkpoint(path, 0.25, ("eval_password=MARKER7f3a9c", 0.5), True))
    assert "MARKER7f3a9c" not in card
    assert "`https://<hidden>@host/out/checkpoint-5`" in card


def test_the_card_has_path_step_size_seconds_and_metric(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "model.bin").write_bytes(b"x" * 3 * 2**20)
    card = checkpoint_card(1200, Checkpoint(str(tmp_path), 0.25, ("eval_f1", 0.5), False))
    assert [row.split(" | ") for row in card.splitlines()[2:]] == [
        ["| path", f"`{tmp_path}` |"],
        ["| step", "1,200 |"],
        ["| size", "3.0 MiB |"],
        ["| saved in", "0.25 s |"],
        ["| eval_f1", "0.5 |"],
        ["| best so far", "no |"],
    ]


def test_a_checkpoint_that_was_removed_has_no_bytes(tmp_path: Path) -> None:
    assert bytes_of(str(tmp_path / "gone")) == 0
