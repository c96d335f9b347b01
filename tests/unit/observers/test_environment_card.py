"""The card of the environment, and what is read of a git repository."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from tbtrainer import tags
from tbtrainer.observers import git_state
from tbtrainer.observers.environment_card import EnvironmentCard, command_line
from tests.limits import HANG_SECONDS

TOKEN = "hf_" + "a1B2c3D4" * 4


def card(writes: bool = True) -> str:
    """The text of the card; empty if there is none."""
    training: Any = SimpleNamespace(is_world_process_zero=writes, device=torch.device("cpu"))
    deferred = EnvironmentCard().run_begins(0, training)
    texts: list[Any] = [text for each in deferred for text in each.make()]
    assert all(text.once and text.tag == tags.RUN_ENVIRONMENT.name for text in texts)
    return texts[0].text if texts else ""


def git(directory: Path, *command: str) -> str:
    """Runs git in a directory, whatever the user has set up."""
    options = ["-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=0"]
    words = ["git", "-C", str(directory), *options, *command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit of one file, which is the working directory."""
    git(tmp_path, "init", "--initial-branch", "trunk")
    (tmp_path / "train.py").write_text("print(1)\n")
    git(tmp_path, "add", "train.py")
    git(tmp_path, "commit", "--message", "First")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_versions_and_hardware_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = card()
    assert f"| transformers | {transformers.__version__} |" in text
    assert f"| Python | {sys.version.split()[0]} |" in text
    assert "| CPU cores | " in text


def test_a_clean_commit_is_shown_with_its_branch(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert f"| git commit | {commit[:12]} (trunk) |" in card()
    assert "| uncommitted changes | none |" in card()


def test_changed_files_are_counted(repository: Path) -> None:
    (repository / "train.py").write_text("print(2)\n")
    (repository / "untracked.py").write_text("print(3)\n")
    assert "| uncommitted changes | 1 file |" in card()


def test_the_repository_is_only_read(repository: Path) -> None:
    # A file with another time makes `git status` refresh the index.
    os.utime(repository / "train.py", (time.time() + 60,) * 2)
    before = {path: path.stat().st_mtime_ns for path in (repository / ".git").rglob("*")}
    assert "| uncommitted changes | none |" in card()
    assert {path: path.stat().st_mtime_ns for path in (repository / ".git").rglob("*")} == before


def test_without_a_repository_the_rows_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "git" not in card().partition("| directory |")[2].partition("Hardware")[0]


def test_without_git_the_rows_are_left_out(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert "| git commit |" not in card()


def test_a_git_that_hangs_is_not_waited_for(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = repository / "bin" / "git"
    hanging.parent.mkdir()
    hanging.write_text(f"#!/bin/sh\nexec sleep {10 * HANG_SECONDS}\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("PATH", f"{hanging.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(git_state, "GIT_SECONDS", 0.1)
    assert "| git commit |" not in card()


def test_the_command_line_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["python", "train.py", "--hub_token", TOKEN, "--db_password=x7f3a9c", "--lr", "0.1"]
    monkeypatch.setattr(sys, "orig_argv", words)
    shown = command_line()
    assert TOKEN not in shown and "x7f3a9c" not in shown
    assert shown.startswith("python train.py --hub_token ")
    assert shown.endswith("--lr 0.1")


def test_other_ranks_make_no_card() -> None:
    assert card(writes=False) == ""
