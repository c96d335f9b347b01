"""`trainer.writer`: a `SummaryWriter` that a subclass may replace, and that other tools follow."""

import copy
import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard import writer as torch_writer

from tbtrainer import TBTrainer, TBTrainerMixin, TBTrainingArguments
from tbtrainer.isolation import Isolation
from tbtrainer.run import RunWriter, SilentWriter
from tests import tiny
from tests.events import event_files, scalars, values

PUBLIC_METHODS = [
    name
    for name in dir(SummaryWriter)
    if not name.startswith("_") and callable(getattr(SummaryWriter, name))
]


def arguments(directory: Path) -> TBTrainingArguments:
    return tiny.arguments(TBTrainingArguments, directory, max_steps=4, histogram_steps=2)


def tags_below(directory: Path) -> set[str]:
    return {value.tag for file in event_files(directory) for _, value in values(file)}


def assert_is_complete_run(directory: Path) -> None:
    tags = tags_below(directory / "out" / "runs")
    expected = {
        "args/text_summary",
        "train/loss",
        "grad_norm/total",
        "checkpoint/saved/text_summary",
    }
    assert expected <= tags
    assert any(tag.startswith("parameters/") for tag in tags)
    assert any(tag.startswith("gradients/") for tag in tags)
    assert "tbtrainer/overhead_fraction" in tags


# ---- A subclass with a writer of its own ----


class SetsWriter(TBTrainer):
    def __init__(self, own_directory: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.writer = SummaryWriter(str(own_directory))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        super().log(logs, *args, **kwargs)
        self.writer.add_scalar("mine", 1.0, self.state.global_step)


def test_a_subclass_writes_to_the_writer_it_sets(tmp_path: Path) -> None:
    args = tiny.arguments(
        TBTrainingArguments, tmp_path / "out", save_strategy="steps", save_steps=5
    )
    trainer = tiny.trainer(SetsWriter, args, own_directory=tmp_path / "own")
    trainer.train()
    trainer.writer.close()
    assert type(trainer.writer) is SummaryWriter
    assert tags_below(tmp_path / "own") == {"mine"}
    assert "mine" not in tags_below(tmp_path / "out")
    assert_is_complete_run(tmp_path)


def test_a_writer_set_to_none_is_none(tmp_path: Path) -> None:
    trainer = tiny.trainer(TBTrainer, arguments(tmp_path))
    trainer.writer = None
    assert trainer.writer is None


class HasClassAttribute(TBTrainer):
    writer = None


class HasProperty(TBTrainer):
    @property
    def writer(self) -> None:
        return None


class SetsWriterFirst(TBTrainerMixin, tiny.Trainer):
    def __init__(self, **kwargs: Any) -> None:
        self.writer = None
        super().__init__(**kwargs)


@pytest.mark.parametrize("cls", [HasClassAttribute, HasProperty, SetsWriterFirst])
def test_a_name_writer_of_a_subclass_keeps_telemetry(cls: type, tmp_path: Path) -> None:
    args = tiny.arguments(
        TBTrainingArguments, tmp_path / "out", save_strategy="steps", save_steps=5
    )
    trainer = tiny.trainer(cls, args)
    trainer.train()
    assert trainer.writer is None
    assert_is_complete_run(tmp_path)


# ---- The methods of torch's writer ----


@pytest.mark.parametrize("cls", [RunWriter, SilentWriter])
@pytest.mark.parametrize("name", PUBLIC_METHODS)
def test_public_methods_have_the_signatures_of_torch(cls: type, name: str) -> None:
    assert name.startswith("add_") or name in ("flush", "close", "get_logdir")
    ours, stock = getattr(cls, name), getattr(SummaryWriter, name)
    # `flush` takes one argument more, which may be left out.
    assert [
        parameter for parameter in inspect.signature(ours).parameters if parameter != "wait_seconds"
    ] == list(inspect.signature(stock).parameters)
    for parameter in inspect.signature(stock).parameters.values():
        mine = inspect.signature(ours).parameters[parameter.name]
        assert (mine.kind, mine.default) == (parameter.kind, parameter.default)


def test_both_writers_are_summary_writers(tmp_path: Path) -> None:
    assert isinstance(SilentWriter(), SummaryWriter)
    assert isinstance(RunWriter(str(tmp_path)), SummaryWriter)


def test_the_silent_writer_has_all_methods_of_the_real_one() -> None:
    for name in dir(RunWriter):
        if not name.startswith("_"):
            assert hasattr(SilentWriter(), name), name


# ---- Tools that replace names and methods of torch ----


class Follower:
    """A tool that replaces `EventFileWriter` as Weights & Biases does, and counts what it sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directories: list[str] = []
        self.tags: list[str] = []
        follower = self

        class Replacement(torch_writer.EventFileWriter):
            def __init__(self, logdir: str, *args: Any, **kwargs: Any) -> None:
                follower.directories.append(logdir)
                super().__init__(logdir, *args, **kwargs)

            def add_event(self, event: Any) -> None:
                follower.tags += [value.tag for value in event.summary.value]
                super().add_event(event)

        monkeypatch.setattr(torch_writer, "EventFileWriter", Replacement)


def test_a_replaced_event_file_writer_sees_each_record_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Follower(monkeypatch)
    writer = RunWriter(str(tmp_path))
    writer.add_scalar("value", 1.0, 1)
    writer.close()
    writer.add_scalar("value", 2.0, 2)
    writer.release()
    writer.add_scalar("value", 3.0, 3)
    writer.close()
    assert follower.directories == [str(tmp_path)]
    assert follower.tags == ["value"] * 3
    (file,) = event_files(tmp_path)
    assert scalars(file) == [("value", 1, 1.0), ("value", 2, 2.0), ("value", 3, 3.0)]


def test_a_class_replaced_after_the_first_record_still_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RunWriter(str(tmp_path))
    writer.add_scalar("before", 1.0, 1)
    follower = Follower(monkeypatch)
    writer.add_scalar("after", 2.0, 2)
    monkeypatch.undo()
    writer.add_scalar("later", 3.0, 3)
    writer.close()
    assert follower.tags == ["after"]
    (file,) = event_files(tmp_path)
    assert [tag for tag, _, _ in scalars(file)] == ["before", "after", "later"]


def test_series_and_trials_are_followed_in_their_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Follower(monkeypatch)
    with RunWriter(str(tmp_path)) as writer:
        writer.add_scalars("chart", {"a": 1.0, "b": 2.0}, 1)
        writer.add_scalars("chart", {"a": 3.0, "b": 4.0}, 2)
        writer.add_hparams({"rate": 0.1}, {"loss": 1.0}, run_name="trial")
    below = ["", "/chart_a", "/chart_b", "/trial"]
    assert sorted(follower.directories) == [f"{tmp_path}{name}" for name in below]
    assert follower.tags.count("chart") == 4
    assert follower.tags.count("loss") == 1


def test_a_replacement_that_fails_leaves_the_event_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(torch_writer.EventFileWriter):
        def __init__(self, logdir: str, *args: Any, **kwargs: Any) -> None:
            raise ConnectionError("no service")

    monkeypatch.setattr(torch_writer, "EventFileWriter", Failing)
    with RunWriter(str(tmp_path), isolation=Isolation("warn")) as writer:
        writer.add_scalar("value", 1.0, 1)
        writer.add_scalars("chart", {"a": 1.0, "b": 2.0}, 1)
    assert len(caplog.records) == 1
    assert "no service" in caplog.text
    assert scalars(next(tmp_path.glob("*tfevents*"))) == [("value", 1, 1.0)]


def test_a_followed_writer_can_be_copied_and_pickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Follower(monkeypatch)
    writer = RunWriter(str(tmp_path))
    writer.add_scalar("value", 1.0, 1)
    for other in (copy.deepcopy(writer), pickle.loads(pickle.dumps(writer))):
        assert other.log_dir == str(tmp_path)
        other.close()
    writer.close()


@pytest.mark.parametrize("name", [name for name in PUBLIC_METHODS if name.startswith("add_")])
def test_a_method_replaced_later_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RunWriter(str(tmp_path))
    calls: list[Any] = []
    monkeypatch.setattr(SummaryWriter, name, lambda self, *args, **kwargs: calls.append(self))
    first: dict[str, Any] = {"add_scalars": {"a": 1.0}, "add_hparams": {"loss": 1.0}}
    getattr(writer, name)("tag", first.get(name, 1))
    assert calls == [writer]


def test_only_the_end_of_training_ends_a_tools_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments: list[str] = []
    stock_init, stock_close = SummaryWriter.__init__, SummaryWriter.close

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        moments.append("begin")
        stock_init(self, *args, **kwargs)

    def close(self: Any) -> None:
        stock_close(self)
        moments.append("end")

    monkeypatch.setattr(SummaryWriter, "__init__", init)
    monkeypatch.setattr(SummaryWriter, "close", close)
    trainer = tiny.trainer(TBTrainer, arguments(tmp_path))
    trainer.evaluate()
    trainer.evaluate()
    assert moments == ["begin"]
    trainer.train()
    assert moments == ["begin", "end"]
    trainer.evaluate()
    trainer.evaluate()
    assert moments == ["begin", "end", "begin"]
    assert len(event_files(tmp_path)) == 1


# ---- Many series ----

MANY_SERIES = """
import resource, sys
from tbtrainer import TBTrainer, TBTrainingArguments
from tests import tiny

class Charts(TBTrainer):
    def log(self, logs, *args, **kwargs):
        super().log(logs, *args, **kwargs)
        series = {f"series_{i}": float(i) for i in range(300)}
        self.writer.add_scalars("chart", series, self.state.global_step)

args = tiny.arguments(
    TBTrainingArguments, sys.argv[1], max_steps=4, save_strategy="steps", save_steps=2
)
trainer = tiny.trainer(Charts, args)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
trainer.train()
"""


def test_a_training_with_300_series_needs_no_256_descriptors(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", MANY_SERIES, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert ended.returncode == 0, ended.stderr
    assert "could not" not in ended.stderr
    assert (tmp_path / "checkpoint-4" / "model.safetensors").exists()
    series = [file for file in event_files(tmp_path) if "chart_series" in str(file)]
    assert len(series) == 300
    # The end of the training is logged at the step of the last log.
    assert all([step for _, step, _ in scalars(file)] == [2, 4, 4] for file in series)
