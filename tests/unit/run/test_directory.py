"""Which directory a run goes to, and what is checked of it before training."""

import os
from pathlib import Path

import pytest

from tbtrainer.run import check_run_directory
from tbtrainer.run.directory import default_run_directory, named_run_directory


def test_the_users_directory_comes_before_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "/environment")
    assert named_run_directory("/mine") == "/mine"
    assert named_run_directory(None) == "/environment"
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    assert named_run_directory(None) is None


def test_the_default_lies_below_the_output_directory(tmp_path: Path) -> None:
    assert Path(default_run_directory(str(tmp_path))).parent == tmp_path / "runs"


def test_a_relative_directory_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_run_directory("logs") == str(tmp_path / "logs")
    assert default_run_directory("out").startswith(str(tmp_path / "out" / "runs"))


def test_a_file_url_is_a_local_path() -> None:
    assert named_run_directory("file:///data/my%20run") == "/data/my run"


def test_a_url_stays_as_it_is() -> None:
    assert named_run_directory("s3://bucket/run") == "s3://bucket/run"


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"logging_dir=.*file is a file"):
            check_run_directory(str(path))


def test_a_directory_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(ValueError, match="no permission"):
        check_run_directory(str(tmp_path / "run"))


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    with pytest.raises(ValueError, match="link that leads nowhere"):
        check_run_directory(str(tmp_path / "link"))


def test_a_name_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="longer than the 255 bytes"):
        check_run_directory(str(tmp_path / "below" / ("n" * 256)))
