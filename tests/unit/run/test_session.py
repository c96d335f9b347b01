"""The session gives a writer whatever the store does, and none to ranks that do not write."""

import errno
import logging
import os
import shutil
import threading
import uuid
from pathlib import Path

import fsspec
import pytest

from tbtrainer.records import Scalar, Text
from tbtrainer.run import RunSession, RunWriter, SilentWriter, continuing, session, time_limit
from tbtrainer.run.claim import RunDirectoryUnavailable, read_claim
from tbtrainer.run.saved_run import SavedRun
from tests.events import event_files, scalars, text, texts


def made(directory: Path, logging_dir: Path | str | None = None) -> RunSession:
    named = None if logging_dir is None else str(logging_dir)
    return RunSession(named, str(directory), writes=True)


def place_of(run: RunSession) -> Path:
    return Path(str(run.writer.log_dir))


def test_a_store_that_cannot_be_claimed_still_has_a_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no credentials")  # Stores have exceptions of their own.

    monkeypatch.setattr(session, "claim_run_directory", refused)
    run = made(tmp_path, tmp_path / "run")
    assert isinstance(run.writer, RunWriter)
    # It may hold another run, which nobody could look for.
    assert place_of(run).name.startswith("run-")
    assert caplog.text.count("No run directory can be claimed") == 1
    run.writer.add_scalar("value", 1.0, 1)
    run.close()
    assert [r for file in event_files(tmp_path) for r in scalars(file)] == [("value", 1, 1.0)]


def test_a_directory_full_when_claimed_is_written_to_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(session, "claim_run_directory", full)
    assert place_of(made(tmp_path, tmp_path / "run")) == tmp_path / "run"


def test_an_occupied_directory_without_room_beside_is_never_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unavailable(*args: object, **kwargs: object) -> None:
        raise RunDirectoryUnavailable(
            "it is used by another run. Set logging_dir to another directory."
        )

    monkeypatch.setattr(session, "claim_run_directory", unavailable)
    run = made(tmp_path, tmp_path / "run")
    run.writer.add_scalar("value", 1.0, 1)
    run.close()
    assert event_files(tmp_path / "run") == []
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "Set logging_dir to another directory" in caplog.text


def test_other_ranks_touch_no_file(tmp_path: Path) -> None:
    run = RunSession(str(tmp_path / "run"), str(tmp_path), writes=False)
    run.begin_training(None, "auto", None)
    run.write([Scalar("value", 1.0), Text("card", "text", once=True)], 1)
    run.flush(1.0)
    run.mark_checkpoint(str(tmp_path), 1)
    run.close()
    assert isinstance(run.writer, SilentWriter)
    assert list(tmp_path.iterdir()) == []


def test_opening_a_run_does_not_wait_for_hung_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()

    def hung(*args: object, **kwargs: object) -> None:
        released.wait()

    monkeypatch.setattr(time_limit, "OPEN_SECONDS", 0.1)
    monkeypatch.setattr(session, "claim_run_directory", hung)
    monkeypatch.setattr(session, "check_run_directory", hung)
    run = made(tmp_path, tmp_path / "run")
    run.check()
    assert isinstance(run.writer, RunWriter)
    assert "no answer" in caplog.text
    released.set()


def test_the_default_directory_follows_a_changed_output_dir(tmp_path: Path) -> None:
    run = made(tmp_path / "before")
    run.writer.add_scalar("value", 1.0, 1)
    run.begin_training(None, "auto", None, str(tmp_path / "after"))
    assert place_of(run).parent == tmp_path / "after" / "runs"
    run.close()


def test_a_changed_working_directory_does_not_move_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunSession(None, "out", writes=True)
    run.begin_training(None, "auto", None, "out")
    (tmp_path / "elsewhere").mkdir()
    before = place_of(run)
    assert before.is_absolute()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run.writer.add_scalar("value", 1.0, 1)
    run.close()
    assert event_files(tmp_path) == event_files(before)


def test_an_evaluation_claims_a_run_and_a_training_says_so(tmp_path: Path) -> None:
    run = made(tmp_path)
    claim = read_claim(str(place_of(run)))
    assert claim is not None
    assert claim.first_training is None
    run.begin_training(None, "auto", None, str(tmp_path))
    claim = read_claim(str(place_of(run)))
    assert claim is not None
    assert claim.first_training is not None


def test_a_marker_is_written_without_the_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint-7"
    checkpoint.mkdir()
    run = made(tmp_path)
    claim = read_claim(str(place_of(run)))
    shutil.rmtree(tmp_path / "runs")
    run.mark_checkpoint(str(checkpoint), 7)
    saved = SavedRun.read(str(checkpoint))
    assert saved is not None
    assert claim is not None
    assert saved.run_id == claim.run_id
    assert not (tmp_path / "runs").exists()


def test_a_card_is_written_again_only_when_it_changed(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-7"
    checkpoint.mkdir()
    run = made(tmp_path)
    run.begin_training(None, "auto", None, str(tmp_path))
    run.write([Text("args", "one", once=True)] * 2, 0)
    run.mark_checkpoint(str(checkpoint), 7)
    run.close()
    for card in ("one", "two"):
        run = made(tmp_path)
        run.begin_training(str(checkpoint), "auto", None, str(tmp_path))
        run.write([Text("args", card, once=True)], 7)
        run.close()
    shown = [card for file in event_files(tmp_path) for card in texts(file)]
    assert shown == [("args/text_summary", 0), ("args/text_summary", 7)]


@pytest.mark.parametrize(
    "card, shown",
    [
        ("| token | loss |\n| --- | --- |", "| token | loss |\n| --- | --- |"),
        ("precious", "<hidden>"),
        ("password=precious now", "password=<hidden> now"),
    ],
)
def test_a_tag_that_names_tokens_hides_one_word_only(card: str, shown: str, tmp_path: Path) -> None:
    run = made(tmp_path)
    run.begin_training(None, "auto", None, str(tmp_path))
    run.write([Text("eval/worst_token", card)], 0)
    run.close()
    (file,) = event_files(tmp_path)
    assert text(file, "eval/worst_token/text_summary") == shown


@pytest.mark.parametrize(
    "tag, shown",
    [
        ("door/password", "<hidden>"),
        ("wallet/recoveryPhrase", "<hidden>"),
        ("session_cookie", "<hidden>"),
        ("eval/passwords/mistakes", "several plain words"),
        ("hub_token", "several plain words"),
        ("notes", "several plain words"),
    ],
)
def test_a_tag_that_always_names_a_secret_hides_the_card(
    tag: str, shown: str, tmp_path: Path
) -> None:
    run = made(tmp_path)
    run.begin_training(None, "auto", None, str(tmp_path))
    run.write([Text(tag, "several plain words")], 0)
    run.close()
    (file,) = event_files(tmp_path)
    assert text(file, f"{tag}/text_summary") == shown


@pytest.mark.parametrize("numbered", [False, True])
def test_a_remote_run_continues_from_its_own_output_dir_only(
    numbered: bool, tmp_path: Path
) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    checkpoint = tmp_path / "out" / "checkpoint-7"
    checkpoint.mkdir(parents=True)
    if numbered:
        assert isinstance(made(tmp_path / "earlier", f"{root}/run").writer, RunWriter)
    run = made(tmp_path / "out", f"{root}/run")
    run.begin_training(None, "auto", None, str(tmp_path / "out"))
    run.write([Scalar("value", 1.0)], 8)
    run.mark_checkpoint(str(checkpoint), 7)
    run.close()
    directory = str(run.writer.log_dir)
    assert directory == f"{root}/run" + "-1" * numbered
    shutil.copytree(tmp_path / "out", tmp_path / "branch")
    for output_dir, continues in (("out", True), ("branch", False)):
        again = made(tmp_path / output_dir, f"{root}/run")
        again.begin_training(
            str(tmp_path / output_dir / "checkpoint-7"), "auto", None, str(tmp_path / output_dir)
        )
        assert (str(again.writer.log_dir) == directory) is continues
    fsspec.filesystem("memory").rm(root.removeprefix("memory:/"), recursive=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_used_directory_of_another_user_gives_a_directory_inside(tmp_path: Path) -> None:
    (tmp_path / "parent" / "run").mkdir(parents=True)
    (tmp_path / "parent" / "run" / "events.out.tfevents.1.host").touch()
    (tmp_path / "parent").chmod(0o555)
    assert place_of(made(tmp_path, tmp_path / "parent" / "run")).name == "run-1"
    (tmp_path / "parent").chmod(0o755)


def test_no_debug_message_of_a_session_has_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*args: object) -> None:
        raise RuntimeError("https://user:MARKER7f3a9c@host refused")

    run = made(tmp_path, tmp_path / "run")
    assert isinstance(run.writer, RunWriter)
    monkeypatch.setattr(session, "renew_claim", refused)
    with caplog.at_level(logging.DEBUG):
        run.begin_training(None, "auto", None)
    assert "refused" in caplog.text
    assert "MARKER7f3a9c" not in caplog.text
    run.close()


def test_an_error_in_the_search_for_runs_begins_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("password=MARKER7f3a9c is wrong")

    monkeypatch.setattr(continuing, "run_of_checkpoint", broken)
    run = made(tmp_path)
    first = place_of(run)
    run.begin_training(None, "auto", None)
    (tmp_path / "checkpoint-1").mkdir()
    run.begin_training(str(tmp_path / "checkpoint-1"), "auto", None)
    assert place_of(run) != first
    assert "begins a new run" in caplog.text
    assert "MARKER7f3a9c" not in caplog.text
    run.close()


def test_what_is_no_record_is_named_by_its_type(tmp_path: Path) -> None:
    run = made(tmp_path, tmp_path / "run")
    with pytest.raises(TypeError, match="a dict is not a record") as raised:
        run.write([{"password": "MARKER7f3a9c"}], 1)  # type: ignore[list-item]
    assert "MARKER7f3a9c" not in str(raised.value)
    run.close()
