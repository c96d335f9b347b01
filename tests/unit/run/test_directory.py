"""A run has a directory of its own."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from tbtrainer.event_file.names import event_file_name
from tbtrainer.run import check_run_directory, claim_run_directory, default_run_directory


def test_the_users_directory_comes_before_the_environments(monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "/environment")
    assert default_run_directory("/mine", "out") == "/mine"
    assert default_run_directory(None, "out") == "/environment"
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    assert default_run_directory(None, "out").startswith(os.path.join("out", "runs"))


def test_a_used_directory_gives_a_numbered_sibling(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "events.out.tfevents.1.host.1.0").touch()
    assert claim_run_directory(str(run)) == f"{run}-1"
    assert claim_run_directory(str(run)) == f"{run}-2"


def test_a_directory_with_other_files_is_claimed(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert claim_run_directory(str(tmp_path)) == str(tmp_path)


def _claim(path: str) -> str:
    return claim_run_directory(path)


def test_jobs_of_one_moment_get_a_directory_each(tmp_path):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        claimed = pool.map(_claim, [str(tmp_path / "run")] * 6, chunksize=1)
    assert len(set(claimed)) == 6


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"logging_dir=.*file is a file"):
            check_run_directory(str(path))


def test_a_directory_without_permission_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(ValueError, match="no permission"):
        check_run_directory(str(tmp_path / "run"))


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    with pytest.raises(ValueError, match="link that leads nowhere"):
        check_run_directory(str(tmp_path / "link"))


def test_a_link_to_a_directory_is_a_run_directory(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    check_run_directory(str(tmp_path / "link"))
    assert claim_run_directory(str(tmp_path / "link")) == str(tmp_path / "link")
    assert claim_run_directory(str(tmp_path / "real")) == f"{tmp_path}/real-1"


def test_a_name_that_is_too_long_is_named(tmp_path):
    with pytest.raises(ValueError, match="longer than the 255 bytes"):
        check_run_directory(str(tmp_path / "below" / ("n" * 256)))


def test_a_file_url_is_a_local_path():
    assert default_run_directory("file:///data/my%20run", "out") == "/data/my run"


@pytest.mark.parametrize("ahead", [0, 86_400])
def test_an_event_file_is_named_after_all_that_are_there(ahead):
    newest = f"events.out.tfevents.{int(time.time()) + ahead:010d}.host.1.0"
    assert event_file_name([newest, "notes.txt"], 0) > newest
