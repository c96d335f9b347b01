"""Which run a resumed training continues: one table of cases, and what is looked at for it."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tbtrainer.event_file.local_storage import LocalStorage
from tbtrainer.redaction import shown
from tbtrainer.run.claim import Claim, claim_run_directory
from tbtrainer.run.resume import (
    NEW_RUN,
    Continued,
    FoundRun,
    ResumedCheckpoint,
    Training,
    resumed_checkpoint,
    run_of_checkpoint,
    run_to_continue,
    runs_of,
)
from tbtrainer.run.saved_run import RUN_FILE, SavedRun

MINE, OTHER = "a" * 32, "b" * 32
DEFAULT = Training("/out", None)
NAMED = Training("/out", "/logs/run")
REMOTE = Training("/out", "s3://key:word@bucket/run")


def run(
    directory: str,
    run_id: str = MINE,
    output_dir: str = "/out",
    began: float | None = 100.0,
    last: float | None = None,
    was_at: str | None = None,
) -> FoundRun:
    """A claimed directory. It was claimed at `was_at`, by a training that saved to `output_dir`."""
    claim = Claim.new(was_at or directory, output_dir, trains=False)
    claim = replace(claim, run_id=run_id, first_training=began, last_training=last or began)
    return FoundRun(directory, directory, claim)


def checkpoint(
    run_directory: str | None = "/out/runs/x", run_id: str = MINE, saved_at: float | None = 200.0
) -> ResumedCheckpoint:
    """A checkpoint of step 8, with a marker unless `run_directory` is `None`."""
    saved = None if run_directory is None else SavedRun(run_directory, "../runs/x", run_id, 8)
    return ResumedCheckpoint("/out/checkpoint-8", 8, saved, saved_at)


CONTINUED = {
    "below_output_dir": (checkpoint(), [run("/out/runs/x")], DEFAULT, "/out/runs/x"),
    "among_others": (
        checkpoint(),
        [run("/out/runs/a", OTHER), run("/out/runs/x")],
        DEFAULT,
        "/out/runs/x",
    ),
    "moved_with_output_dir": (
        checkpoint("/before/runs/x"),
        [run("/out/runs/x", output_dir="/before", was_at="/before/runs/x")],
        DEFAULT,
        "/out/runs/x",
    ),
    "renamed_below_output_dir": (
        checkpoint(),
        [run("/out/archive/x", was_at="/out/runs/x")],
        DEFAULT,
        "/out/archive/x",
    ),
    "asked_for": (checkpoint("/logs/run"), [run("/logs/run")], NAMED, "/logs/run"),
    "sibling": (checkpoint("/logs/run-2"), [run("/logs/run-2")], NAMED, "/logs/run-2"),
    "inside": (checkpoint("/logs/run/run-1"), [run("/logs/run/run-1")], NAMED, "/logs/run/run-1"),
    "named_and_all_moved": (
        checkpoint("/before/logs/run"),
        [run("/logs/run", output_dir="/before/out", was_at="/before/logs/run")],
        NAMED,
        "/logs/run",
    ),
    "url_asked_for": (
        checkpoint("s3://<hidden>@bucket/run"),
        [run("s3://key:word@bucket/run")],
        REMOTE,
        "s3://key:word@bucket/run",
    ),
    "url_sibling": (
        checkpoint("s3://<hidden>@bucket/run-1"),
        [run("s3://key:word@bucket/run-1")],
        REMOTE,
        "s3://key:word@bucket/run-1",
    ),
    "no_marker": (checkpoint(None), [run("/out/runs/x")], DEFAULT, "/out/runs/x"),
    "no_marker_newest_training": (
        checkpoint(None),
        [run("/out/runs/x", last=150.0), run("/out/runs/y", last=190.0), run("/out/runs/z")],
        DEFAULT,
        "/out/runs/y",
    ),
    "no_marker_named": (checkpoint(None), [run("/logs/run-1")], NAMED, "/logs/run-1"),
}


@pytest.mark.parametrize(
    ("saved", "found", "training", "expected"), CONTINUED.values(), ids=CONTINUED
)
def test_a_run_of_this_training_is_continued(
    saved: ResumedCheckpoint, found: list[FoundRun], training: Training, expected: str
) -> None:
    decision = run_to_continue(saved, found, training)
    assert isinstance(decision, Continued), decision
    assert (decision.run.directory, decision.step) == (expected, 8)
    assert decision.is_assumed == (saved.saved is None)


REFUSED = {
    "empty_id": (checkpoint(run_id=""), [run("/out/runs/x", "")], DEFAULT, "no claim"),
    "other_id": (checkpoint(), [run("/out/runs/x", OTHER)], DEFAULT, "is missing"),
    "nothing_found": (checkpoint(), [], DEFAULT, "is missing"),
    "link_out_of_output_dir": (
        checkpoint(),
        [replace(run("/out/runs/x"), real="/victim")],
        DEFAULT,
        "left as it is",
    ),
    "above_output_dir": (checkpoint("/"), [run("/")], DEFAULT, "left as it is"),
    "output_dir_itself": (checkpoint("/out"), [run("/out")], DEFAULT, "left as it is"),
    "beside_output_dir": (checkpoint("/output"), [run("/output")], DEFAULT, "left as it is"),
    "dots": (checkpoint("/out/../etc"), [run("/out/../etc")], DEFAULT, "left as it is"),
    "relative": (checkpoint("out/runs/x"), [run("out/runs/x")], DEFAULT, "left as it is"),
    "copied_checkpoint": (
        checkpoint("/parent/runs/x"),
        [run("/parent/runs/x", output_dir="/parent")],
        DEFAULT,
        "left as it is",
    ),
    "nested_output_dir": (
        checkpoint("/out/trial/runs/x"),
        [run("/out/trial/runs/x", output_dir="/out/trial")],
        DEFAULT,
        "left as it is",
    ),
    "same_logging_dir_other_output_dir": (
        checkpoint("/logs/run"),
        [run("/logs/run", output_dir="/parent")],
        NAMED,
        "left as it is",
    ),
    "other_logging_dir": (checkpoint(), [run("/out/runs/x")], NAMED, "left as it is"),
    "below_logging_dir": (checkpoint("/logs/run/x"), [run("/logs/run/x")], NAMED, "left as it is"),
    "padded_number": (checkpoint("/logs/run-01"), [run("/logs/run-01")], NAMED, "left as it is"),
    "url_not_asked_for": (checkpoint("ftp://h/x"), [run("ftp://h/x")], DEFAULT, "left as it is"),
    "url_for_a_named": (checkpoint("s3://b/x"), [run("s3://b/x")], NAMED, "left as it is"),
    "other_url": (checkpoint("s3://b/x"), [run("s3://b/x")], REMOTE, "left as it is"),
    "url_of_other_output_dir": (
        checkpoint("s3://<hidden>@bucket/run"),
        [run("s3://key:word@bucket/run", output_dir="/parent")],
        REMOTE,
        "left as it is",
    ),
    "no_marker_and_no_run": (checkpoint(None), [], DEFAULT, "no readable tensorboard_run.json"),
    "no_marker_evaluations_only": (
        checkpoint(None),
        [run("/out/runs/x", began=None)],
        DEFAULT,
        "no readable tensorboard_run.json",
    ),
    "no_marker_saved_before": (
        checkpoint(None, saved_at=10.0),
        [run("/out/runs/x", began=100.0)],
        DEFAULT,
        "no readable tensorboard_run.json",
    ),
    "no_marker_run_of_others": (
        checkpoint(None),
        [run("/out/trial/runs/x", output_dir="/out/trial")],
        DEFAULT,
        "no readable tensorboard_run.json",
    ),
    "no_step": (
        replace(checkpoint(None), path="/out/best", step=None),
        [run("/out/runs/x")],
        DEFAULT,
        "no readable tensorboard_run.json",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_run_of_another_training_is_not_continued(case: tuple[Any, ...]) -> None:
    saved, found, training, reason = case
    decision = run_to_continue(saved, found, training)
    assert isinstance(decision, str)
    assert reason in decision
    assert NEW_RUN in decision


def mark(path: Path, run_directory: str, run_id: str, step: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    SavedRun.of(run_directory, run_id, str(path), step, {}).write(str(path))


def test_a_broken_marker_is_replaced_by_the_nearest_one(tmp_path: Path) -> None:
    for step, run_id in ((4, "4" * 32), (8, "8" * 32), (12, ""), (16, "f" * 32), (20, "2" * 32)):
        mark(tmp_path / f"checkpoint-{step}", "/run", run_id, step)
    (tmp_path / "checkpoint-16" / RUN_FILE).write_text("{")
    read = resumed_checkpoint(str(tmp_path / "checkpoint-16"))
    assert read.step == 16
    assert read.saved is not None
    assert read.saved.run_id == "8" * 32


def test_a_later_checkpoint_speaks_where_no_earlier_one_does(tmp_path: Path) -> None:
    mark(tmp_path / "checkpoint-8", "/run", MINE, 8)
    (tmp_path / "checkpoint-4").mkdir()
    read = resumed_checkpoint(str(tmp_path / "checkpoint-4"))
    assert read.saved is not None
    assert (read.step, read.saved.run_id) == (4, MINE)


FORGED = (
    "{victim}",
    "../../victim",
    "/",
    "/proc/self",
    "ftp://127.0.0.1:1/x",
    "s3://bucket/x",
    "..",
)


@pytest.mark.parametrize("place", FORGED)
@pytest.mark.parametrize("named", [False, True])
def test_no_directory_of_a_forged_marker_is_looked_at(
    place: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, output_dir = tmp_path / "victim", tmp_path / "out"
    claim = claim_run_directory(str(victim), str(output_dir))[1]
    place = place.format(victim=victim)
    mark(output_dir / "checkpoint-8", "/x", claim.run_id, 8)
    marker = output_dir / "checkpoint-8" / RUN_FILE
    values = {**json.loads(marker.read_text()), "run_directory": place, "relative_directory": place}
    marker.write_text(json.dumps(values))
    looked_at: list[str] = []
    read, resolved = LocalStorage.read, os.path.realpath

    def watched(storage: LocalStorage, path: str, most_bytes: int) -> bytes:
        looked_at.append(storage._directory)
        return read(storage, path, most_bytes)

    def followed(path: str) -> str:
        looked_at.append(path)
        return resolved(path)

    monkeypatch.setattr(LocalStorage, "read", watched)
    monkeypatch.setattr(os.path, "realpath", followed)
    training = Training(str(output_dir), str(tmp_path / "logs") if named else None)
    forged = resumed_checkpoint(str(output_dir / "checkpoint-8"))
    assert forged.saved is not None
    assert runs_of(training, forged) == []
    given = (str(output_dir), str(tmp_path / "logs"))
    assert [path for path in looked_at if not path.startswith(given)] == []


def test_a_link_below_the_output_directory_leads_nowhere(tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    directory, claim = claim_run_directory(str(tmp_path / "victim"), str(output_dir))
    (output_dir / "runs").mkdir(parents=True)
    (output_dir / "runs" / "x").symlink_to(directory)
    mark(output_dir / "checkpoint-8", str(output_dir / "runs" / "x"), claim.run_id, 8)
    training = Training(str(output_dir), None)
    assert isinstance(run_of_checkpoint(str(output_dir / "checkpoint-8"), training), str)


def test_a_run_is_found_through_a_linked_output_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run_directory = str(tmp_path / "link" / "runs" / "x")
    claim = claim_run_directory(run_directory, str(tmp_path / "link"))[1]
    mark(tmp_path / "real" / "checkpoint-8", run_directory, claim.run_id, 8)
    for place in ("real", "link"):
        training = Training(str(tmp_path / place), None)
        decision = run_of_checkpoint(str(tmp_path / place / "checkpoint-8"), training)
        assert isinstance(decision, Continued)


def test_a_message_shows_a_path_short_and_printable() -> None:
    assert len(shown("/x" * 10_000)) < 300
    assert "\n" not in shown("/x\nforged line")
    assert "word" not in shown("s3://key:word@bucket/run")
