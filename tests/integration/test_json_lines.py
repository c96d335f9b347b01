"""An observer's lines beside the event file, in a training that crashes and is resumed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tbtrainer import Observer, TBTrainer, TBTrainingArguments
from tbtrainer.records import Deferred, JsonLine, Record
from tests.events import json_lines
from tests.integration.test_resume import SAVING, Crash, CrashAt
from tests.tiny import arguments, trainer


class Losses(Observer):
    """Writes the loss of each step to a file of lines, every second one in the background."""

    def __init__(self) -> None:
        self._loss = torch.zeros(())

    def micro_batch_taken(self, step: int, loss: torch.Tensor) -> None:
        self._loss = loss

    def step_taken(self, step: int) -> list[Record]:
        line = JsonLine("losses.jsonl", {"loss": float(self._loss), "worst": float("inf")})
        return [line] if step % 2 else [Deferred(lambda: [line])]


def observed(directory: Path, **changes: Any) -> TBTrainer:
    made = trainer(TBTrainer, arguments(TBTrainingArguments, directory, **SAVING), **changes)
    made.add_observer(Losses())
    return made


def lines(directory: Path) -> list[dict[str, Any]]:
    (file,) = directory.rglob("losses.jsonl")
    return sorted(json_lines(file), key=lambda values: values["step"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[TBTrainer, Path]:
    directory = tmp_path_factory.mktemp("whole")
    made = observed(directory)
    made.train()
    return made, directory


def test_a_training_writes_a_line_per_step(whole: tuple[TBTrainer, Path]) -> None:
    written = lines(whole[1])
    assert [values["step"] for values in written] == list(range(1, 11))
    assert all(list(values) == ["step", "time", "loss", "worst"] for values in written)
    assert {values["worst"] for values in written} == {"Infinity"}


def test_a_resumed_training_has_each_line_once(
    whole: tuple[TBTrainer, Path], tmp_path: Path
) -> None:
    crash = CrashAt(7)
    crash.trainer = broken = observed(tmp_path, callbacks=[crash])
    with pytest.raises(Crash):
        broken.train()
    assert [values["step"] for values in lines(tmp_path)] == list(range(1, 7))
    made = observed(tmp_path)
    made.train(resume_from_checkpoint=True)
    expected = [(values["step"], values["loss"]) for values in lines(whole[1])]
    assert [(values["step"], values["loss"]) for values in lines(tmp_path)] == expected
    (removed,) = tmp_path.rglob("losses.jsonl.removed-after-4.*")
    assert {json.loads(line)["step"] for line in removed.read_text().splitlines()} == {5, 6}


def test_lines_do_not_change_the_training(whole: tuple[TBTrainer, Path], tmp_path: Path) -> None:
    without = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path, **SAVING))
    without.train()
    state = whole[0].model.state_dict()
    assert all(torch.equal(v, state[name]) for name, v in without.model.state_dict().items())
