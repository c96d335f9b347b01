"""The figures of a whole training in which every phase takes a known time on a fake clock."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, default_data_collator

from tbtrainer import Observer, TBTrainer, TBTrainingArguments
from tbtrainer.observers.facts import Gradients
from tbtrainer.run import RunSession
from tbtrainer.sharding import ParameterTable
from tests.events import event_files, scalars, text, texts
from tests.fake_clock import FakeClock
from tests.tiny import LENGTH, Sequences, arguments, trainer

DATA, FORWARD, BACKWARD, OPTIMIZER, TELEMETRY = 0.5, 1.0, 2.0, 0.25, 0.125
STEP = DATA + FORWARD + BACKWARD + OPTIMIZER
LOGGING, CHECKPOINT, SET_UP, ENTRY = 4.0, 7.0, 100.0, 0.0625
# It fetches two batches, too.
EVALUATION_LOOP = 10.0
EVALUATION = EVALUATION_LOOP + 2 * DATA
BATCH, PADDING = 4, 3


class TimedTrainer(TBTrainer):
    """Each phase of a step takes its time."""

    clock: FakeClock

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        if self.model.training:
            self.clock.wait(FORWARD)
        return super().compute_loss(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.clock.wait(BACKWARD)
        return loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self.clock.wait(EVALUATION_LOOP)
        return super().evaluation_loop(*args, **kwargs)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        self.clock.wait(CHECKPOINT)
        super().save_model(*args, **kwargs)


class TimedCallback(TrainerCallback):
    """The optimizer step and logging take their time."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.clock.wait(OPTIMIZER)

    def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
        if "loss" in logs:
            self.clock.wait(LOGGING)


class TimedObserver(Observer):
    """Telemetry takes its time."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def run_begins(self, *_: Any) -> None:
        self.clock.wait(SET_UP)

    def gradients_ready(self, step: int, gradients: Gradients | None) -> None:
        self.clock.wait(TELEMETRY)

    def entry_logged(self, step: int, entry: Mapping[str, Any]) -> None:
        if "loss" in entry:
            self.clock.wait(ENTRY)


Shown = dict[tuple[str, int], float]


def trained(directory: Path, clock: FakeClock, data: float = DATA, **changes: Any) -> Shown:
    """Trains, with windows of four steps: 2 to 4 without the first, 5 to 8, 9 to 12."""

    def collated(rows: list[dict[str, Any]]) -> dict[str, Any]:
        clock.wait(data)
        batch = default_data_collator(rows)
        batch["attention_mask"][:, LENGTH - PADDING :] = 0
        return batch

    values = {"max_steps": 12, "logging_steps": 4, "telemetry_errors": "raise", **changes}
    args = arguments(
        TBTrainingArguments, directory / "out", logging_dir=directory / "run", **values
    )
    with clock.installed():
        made = trainer(
            TimedTrainer,
            args,
            train_dataset=Sequences(256),
            data_collator=collated,
            callbacks=[TimedCallback(clock)],
        )
        made.clock = clock
        made.add_observer(TimedObserver(clock))
        made.train()
    (file,) = event_files(directory / "run")
    return {(tag, step): value for tag, step, value in scalars(file)}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A training with an evaluation and a checkpoint in the window from 5 to 8."""
    busy = {"eval_strategy": "steps", "eval_steps": 6, "save_strategy": "steps", "save_steps": 7}
    yield trained(tmp_path_factory.mktemp("busy"), FakeClock(), **busy)


@pytest.mark.parametrize("step", [4, 8, 12])
@pytest.mark.parametrize(
    "tag, expected",
    [
        ("throughput/step_seconds", STEP),
        ("throughput/step_seconds_p95", STEP),
        ("throughput/samples_per_second", BATCH / (STEP + TELEMETRY)),
        ("throughput/tokens_per_second", BATCH * (LENGTH - PADDING) / (STEP + TELEMETRY)),
        ("throughput/data_wait_fraction", DATA / STEP),
        ("step_phases/data_wait", DATA),
        ("step_phases/forward_backward", FORWARD + BACKWARD),
        ("step_phases/optimizer", OPTIMIZER),
    ],
)
def test_each_window_shows_what_was_waited(
    shown: Shown, tag: str, expected: float, step: int
) -> None:
    assert shown[tag, step] == pytest.approx(expected)


def test_logging_is_a_phase_of_the_window_after_it(shown: Shown) -> None:
    logging = [shown["step_phases/logging", step] for step in (4, 8, 12)]
    assert logging == pytest.approx([0.0, LOGGING / 4, LOGGING / 4], abs=1e-6)


def test_telemetry_is_a_phase(shown: Shown) -> None:
    telemetry = [shown["step_phases/telemetry", step] for step in (4, 8, 12)]
    later = TELEMETRY + ENTRY / 4
    assert telemetry == pytest.approx([TELEMETRY, later, later])


def test_phases_add_up_to_the_time_between_logging_steps(shown: Shown) -> None:
    phases = sum(
        value for (tag, step), value in shown.items() if "step_phases/" in tag and step == 8
    )
    assert phases == pytest.approx(STEP + TELEMETRY + (LOGGING + ENTRY) / 4)


def test_an_evaluation_has_its_own_figure(shown: Shown) -> None:
    assert shown["throughput/evaluation_seconds", 6] == pytest.approx(EVALUATION)


def test_overhead_of_the_first_window_has_no_set_up(shown: Shown) -> None:
    # The data of the first step is fetched before the set-up.
    elapsed = 4 * (STEP + TELEMETRY) - DATA
    assert shown["tbtrainer/overhead_fraction", 4] == pytest.approx(4 * TELEMETRY / elapsed)


def test_overhead_is_that_of_all_between_two_logging_steps(shown: Shown) -> None:
    spent = 4 * TELEMETRY + ENTRY
    elapsed = 4 * STEP + LOGGING + EVALUATION + CHECKPOINT + spent
    assert shown["tbtrainer/overhead_fraction", 8] == pytest.approx(spent / elapsed)


@pytest.mark.parametrize(
    "kind, name, calls", [(ParameterTable, "gradients", 4), (RunSession, "mark_checkpoint", 1)]
)
def test_overhead_has_what_no_observer_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, name: str, calls: int
) -> None:
    clock = FakeClock()
    method = getattr(kind, name)

    def slow(self: Any, *args: Any) -> Any:
        clock.wait(1.0)
        return method(self, *args)

    monkeypatch.setattr(kind, name, slow)
    found = trained(tmp_path, clock, save_strategy="steps", save_steps=7)
    spent = 4 * TELEMETRY + ENTRY + calls
    elapsed = 4 * STEP + LOGGING + CHECKPOINT + spent
    assert found["tbtrainer/overhead_fraction", 8] == pytest.approx(spent / elapsed)


def test_a_first_step_that_is_logged_has_no_figures(tmp_path: Path) -> None:
    found = trained(tmp_path, FakeClock(), logging_first_step=True)
    assert {step for tag, step in found if tag.startswith(("throughput/", "step_phases/"))} == {
        *(4, 8, 12)
    }


def test_the_wait_for_data_is_reported_once(tmp_path: Path) -> None:
    trained(tmp_path, FakeClock(), data=2.0, max_steps=40, logging_steps=10)
    (file,) = event_files(tmp_path / "run")
    verdicts = [step for tag, step in texts(file) if tag.startswith("throughput/verdict")]
    # The first window has nine steps, too few to be judged by themselves.
    assert verdicts == [20]


def test_the_verdict_has_the_share_of_the_wait(tmp_path: Path) -> None:
    trained(tmp_path, FakeClock(), data=2.0, max_steps=12, logging_steps=12)
    (file,) = event_files(tmp_path / "run")
    assert "Waiting for data 38 % of the time" in text(file, "throughput/verdict/text_summary")


def test_accumulated_micro_batches_are_one_step(tmp_path: Path) -> None:
    found = trained(tmp_path, FakeClock(), gradient_accumulation_steps=2)
    assert found["throughput/step_seconds", 8] == pytest.approx(
        2 * (DATA + FORWARD + BACKWARD) + OPTIMIZER
    )


class Sleepy(TBTrainer):
    """Sleeps in its evaluation."""

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        time.sleep(2.0)
        return super().evaluation_loop(*args, **kwargs)


def test_an_evaluation_that_sleeps_is_in_no_phase(tmp_path: Path) -> None:
    args = arguments(
        *(TBTrainingArguments, tmp_path / "out"),
        logging_dir=tmp_path / "run",
        max_steps=4,
        logging_steps=4,
        eval_strategy="steps",
        eval_steps=3,
    )
    began = time.perf_counter()
    trainer(Sleepy, args).train()
    seconds = time.perf_counter() - began
    (file,) = event_files(tmp_path / "run")
    phases = sum(value for tag, step, value in scalars(file) if "step_phases/" in tag and step == 4)
    assert 3 * phases + 2.0 <= seconds


def test_a_loader_that_sleeps_is_waited_for(tmp_path: Path) -> None:
    def sleepy(rows: list[dict[str, Any]]) -> dict[str, Any]:
        time.sleep(0.1)
        return default_data_collator(rows)

    args = arguments(
        *(TBTrainingArguments, tmp_path / "out"), logging_dir=tmp_path / "run", max_steps=4
    )
    trainer(TBTrainer, args, data_collator=sleepy).train()
    (file,) = event_files(tmp_path / "run")
    waits = [value for tag, _, value in scalars(file) if tag == "step_phases/data_wait"]
    assert min(waits) >= 0.1
