"""A run that is written is read on from where it stopped, whatever the writer does."""

from pathlib import Path

import pytest

from tbtrainer.command_line.following import Entry, RunFollower
from tests.event_runs import BEGIN, curve, scalar, session_end, session_start, text, write


def follower(run: Path) -> RunFollower:
    return RunFollower(str(run), lambda tag: tag != "hidden")


def steps(entries: list[Entry]) -> list[int]:
    return [entry.step for entry in entries]


def test_only_what_is_new_is_returned(tmp_path: Path) -> None:
    file = write(tmp_path, curve("loss", range(3)))
    following = follower(tmp_path)
    assert steps(following.read()) == [0, 1, 2]
    assert following.read() == []
    with open(file, "ab") as opened:
        opened.write(b"".join(curve("loss", range(3, 5))))
    assert steps(following.read()) == [3, 4]


def test_a_torn_record_is_returned_when_it_is_whole(tmp_path: Path) -> None:
    file = write(tmp_path, curve("loss", range(3)))
    following = follower(tmp_path)
    following.read()
    record = scalar("loss", 3, 1.0)
    for part, expected in ((record[:20], []), (record[20:], [3])):
        with open(file, "ab") as opened:
            opened.write(part)
        assert steps(following.read()) == expected


def test_a_new_file_is_read(tmp_path: Path) -> None:
    write(tmp_path, curve("loss", range(3)))
    following = follower(tmp_path)
    following.read()
    write(tmp_path, curve("loss", range(3, 6)), began=BEGIN + 1)
    assert steps(following.read()) == [3, 4, 5]
    assert len(following.files) == 2


def test_a_rewound_file_is_not_shown_again(tmp_path: Path) -> None:
    file = write(tmp_path, curve("loss", range(10)))
    following = follower(tmp_path)
    following.read()
    file.unlink()
    write(tmp_path, curve("loss", range(5)))
    assert following.read() == []
    with open(file, "ab") as opened:
        opened.write(scalar("loss", 5, 1.0))
    assert steps(following.read()) == [5]


@pytest.mark.parametrize("most", [0, 1, 3, 100])
def test_at_most_the_latest_entries_are_returned(tmp_path: Path, most: int) -> None:
    write(tmp_path, curve("loss", range(10)))
    write(tmp_path, curve("loss", range(10, 12)), began=BEGIN + 1)
    assert steps(follower(tmp_path).read(most)) == list(range(12))[12 - min(most, 12) :]


def test_values_of_one_step_are_one_entry(tmp_path: Path) -> None:
    records = [scalar(tag, 1, 0.5) for tag in ("loss", "hidden", "lr")]
    records += [scalar("loss", 1, 0.25), text("health/report/text_summary", "**bad**", 1)]
    write(tmp_path, records)
    first, second = follower(tmp_path).read()
    assert first.values == {"loss": 0.5, "lr": 0.5}
    assert (second.values, second.texts) == ({"loss": 0.25}, {"health/report": "**bad**"})


def test_the_end_of_a_run_is_known(tmp_path: Path) -> None:
    write(tmp_path, [session_start(), *curve("loss", range(3)), session_end(1)])
    following = follower(tmp_path)
    following.read()
    assert following.hparams.status == "success"
    write(tmp_path, [session_start()], began=BEGIN + 1)
    following.read()
    assert following.hparams.status is None


def test_a_damaged_file_is_reported_and_read_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = scalar("loss", 3, 0.5)[:-1] + b"\xff"
    file = write(tmp_path, [*curve("loss", range(3)), bad])
    following = follower(tmp_path)
    assert steps(following.read()) == [0, 1, 2]
    assert following.damaged == {file.name}
    assert following.read() == []
    (warning,) = caplog.messages
    assert file.name in warning and "tbtrainer doctor" in warning
