"""Every snippet of docs/reading-back.md runs, on the run of a small training."""

import re
from pathlib import Path
from typing import Any

import pytest

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.tiny import arguments, trainer

PAGE = Path(__file__).parents[2] / "docs" / "reading-back.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run in `runs/first`."""
    monkeypatch.chdir(tmp_path)
    changes = {"eval_strategy": "steps", "eval_steps": 4, "logging_dir": "runs/first"}
    args = arguments(TBTrainingArguments, tmp_path / "output", **changes)
    trainer(TBTrainer, args).train()
    return tmp_path


def test_every_snippet_of_the_page_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for snippet in SNIPPETS:
        exec(snippet, names)
    printed = capsys.readouterr().out
    assert len(SNIPPETS) == PAGE.read_text().count("```python") == 9
    assert names["loss"].step.tolist() == [2, 4, 6, 8, 10]
    assert len(names["last"]) > 10
    assert '"max_steps": 10' in names["arguments"]
    assert names["highest"]["train/loss"] == names["loss"].value.max()
    assert "runs/first " in printed
    assert any(path.read_bytes().startswith(b"\x89PNG") for path in place.glob("*.png"))
