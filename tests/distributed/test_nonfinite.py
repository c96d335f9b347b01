"""NaN planted in every parallel mode: what is reported, and what `nonfinite_action` does."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.launch import launch, needs_deepspeed
from tests.distributed.nonfinite_scenes import (
    BAD_STEP,
    FLOAT16_SCENES,
    FLOAT32_SCENES,
    RESUMED,
    SAVED_STEP,
    SCENES,
    STEPS,
)
from tests.events import event_files, scalars
from tests.planting import EMBEDDING, LAYER, NAMES, WEIGHT, Plant

ELEMENTS = sum(parameter.numel() for parameter in Plant().model().parameters())

# What shows that a mode is on.
DDP = {"distributed_type": "DistributedType.MULTI_CPU", "wrapper": "DistributedDataParallel"}
FSDP2 = {
    "distributed_type": "DistributedType.FSDP",
    "wrapper": "FSDPBertForSequenceClassification",
    "elements_here": ELEMENTS // 2,
}
ZERO = {"distributed_type": "DistributedType.DEEPSPEED", "wrapper": "DeepSpeedEngine"}
ZERO2 = {**ZERO, "stage": 2}
ZERO3 = {**ZERO, "stage": 3, "elements_here": ELEMENTS // 2}
SCALED = {"scaler": "GradScaler"}
FLOAT16 = {"dtypes": ["torch.float16"]}
MODES: dict[str, dict[str, Any]] = {
    "single": {"distributed_type": "DistributedType.NO", "elements_here": ELEMENTS},
    "ddp": {**DDP, "elements_here": ELEMENTS},
    "fsdp2": FSDP2,
    "zero2": ZERO2,
    "zero3": ZERO3,
    "single-fp16": {"distributed_type": "DistributedType.NO", **SCALED},
    "ddp-fp16": {**DDP, **SCALED},
    "zero2-fp16": {**ZERO2, **FLOAT16},
    "zero3-fp16": {**ZERO3, **FLOAT16},
}
# What is found in the steps of training. The cause, the bad gradients, and the first bad module.
TRAINING_SCENES: dict[str, tuple[str, list[str], str | None]] = {
    "gradient": ("backward", [WEIGHT], None),
    "activation": ("loss", NAMES, LAYER),
    "loss": ("loss", [], None),
    "batch": ("loss", NAMES, EMBEDDING),
    "weight": ("weights", NAMES, LAYER),
}
ENDING = ("stop", "raise")


@dataclass(frozen=True)
class Started:
    """One start of torchrun: the trainings of a mode.

    Attributes:
        mode: Name of the mode.
        directory: What the trainings have written.
        verdict: Facts, and what each rank found in each scene.
    """

    mode: str
    directory: Path
    verdict: dict[str, Any]

    @property
    def last_rank(self) -> int:
        """The rank whose batch is broken, and the last of those with a bad loss."""
        return len(self.verdict["facts"]) - 1

    @property
    def skips_bad_gradients(self) -> bool:
        """Whether the mode itself leaves out a step with such gradients."""
        return self.mode.startswith("zero") or self.mode.endswith("fp16")

    def found(self, scene: str, action: str) -> list[dict[str, Any]]:
        """What each rank found of a training."""
        return [of_rank[action] for of_rank in self.verdict[scene]]

    def report(self, scene: str, action: str) -> dict[str, Any]:
        """The first line of the training's `health.jsonl`."""
        report: dict[str, Any] = self.found(scene, action)[0]["reports"][0]
        return report

    def counted(self, scene: str, action: str) -> dict[tuple[str, int], float]:
        """The counts that are not zero, by tag and step."""
        (file,) = event_files(self.directory / f"{scene}-{action}")
        shown = scalars(file)
        return {(t, s): v for t, s, v in shown if v and t.startswith(("health/non", "health/sk"))}


@pytest.fixture(scope="module")
def start(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Started]:
    """A function that starts a mode when it is first asked for, with the selected scenes."""
    tests = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    known: dict[str, Started | AssertionError] = {}

    def started_in(mode: str) -> Started:
        if mode not in known:
            selected = {test.get("scene") for test in tests if test.get("mode") == mode}
            scenes = [scene for scene in SCENES if scene in selected]
            directory = tmp_path_factory.mktemp(mode)
            processes = 1 if mode.startswith("single") else 2
            names = (mode, str(directory), *scenes)
            try:
                verdict = launch("nonfinite_scenes.py", *names, processes=processes)
                known[mode] = Started(mode, directory, verdict)
            except AssertionError as error:
                known[mode] = error
        started = known[mode]
        if isinstance(started, AssertionError):
            raise started
        return started

    return started_in


@pytest.fixture
def started(start: Callable[[str], Started], mode: str) -> Started:
    """The trainings of the test's mode."""
    return start(mode)


def in_each(cases: Iterable[tuple[str, str, str]]) -> pytest.MarkDecorator:
    """Runs a test with each of these modes, scenes and actions."""
    return pytest.mark.parametrize(
        ("mode", "scene", "action"),
        [
            pytest.param(
                *case, id="-".join(case), marks=needs_deepspeed if "zero" in case[0] else ()
            )
            for case in cases
        ],
    )


def trainings(actions: Iterable[str], scenes: Iterable[str] = TRAINING_SCENES) -> Any:
    """Runs a test in each mode with those of the scenes that it has, and with the actions."""
    return in_each(
        [
            (mode, scene, action)
            for mode in MODES
            for scene in (FLOAT16_SCENES if mode.endswith("fp16") else FLOAT32_SCENES)
            for action in SCENES[scene]
            if scene in scenes and action in actions
        ]
    )


def resumed_trainings() -> Any:
    """Runs a test with each training that was resumed."""
    return in_each(
        [
            (mode, scene, action)
            for mode in MODES
            for scene, action in sorted(RESUMED)
            if scene in (FLOAT16_SCENES if mode.endswith("fp16") else FLOAT32_SCENES)
        ]
    )


def bad_step(scene: str) -> int:
    return 1 if scene == "weight" else BAD_STEP


@trainings(["log"], ["gradient"])
def test_the_mode_is_really_on(started: Started, scene: str, action: str) -> None:
    expected = MODES[started.mode]
    for facts in started.verdict["facts"]:
        assert {key: facts[key] for key in expected} == expected


@trainings(["log"])
def test_the_gradients_are_bad_as_planted(started: Started, scene: str, action: str) -> None:
    _, names, _ = TRAINING_SCENES[scene]
    assert [of_rank["planted"] for of_rank in started.verdict[scene]] == [names] * (
        started.last_rank + 1
    )


@trainings(["log"], SCENES)
def test_a_training_that_only_logs_is_unchanged(started: Started, scene: str, action: str) -> None:
    for found in started.found(scene, action):
        assert {key for key, same in found["equal"].items() if not same} == set()


@trainings(["log", *ENDING])
def test_step_and_parameters_are_named(started: Started, scene: str, action: str) -> None:
    _, names, _ = TRAINING_SCENES[scene]
    report = started.report(scene, action)
    assert report["bad_step"] == bad_step(scene)
    assert report["bad_gradients"] == names
    assert report["nearest_to_loss"] == (names[-1] if names else None)


@trainings(["log", *ENDING])
def test_the_cause_and_the_rank_are_named(started: Started, scene: str, action: str) -> None:
    cause, _, _ = TRAINING_SCENES[scene]
    report = started.report(scene, action)
    assert report["cause"] == cause
    assert report["loss_rank"] == (None if cause == "backward" else started.last_rank)


@trainings(["log", *ENDING])
def test_damaged_weights_are_named(started: Started, scene: str, action: str) -> None:
    report = started.report(scene, action)
    is_taken = action == "log" and (scene == "loss" or not started.skips_bad_gradients)
    expected = []
    if scene == "weight":
        expected = [WEIGHT]
    elif is_taken and scene != "loss":
        expected = NAMES  # Clipping divides all gradients by a norm that is NaN.
    assert report["applied"] == is_taken
    assert report["damaged_weights"] == expected
    since = 0 if scene == "weight" else BAD_STEP
    assert report["damaged_since"] == (since if expected else None)


@trainings(ENDING)
def test_the_first_bad_module_is_named(started: Started, scene: str, action: str) -> None:
    _, _, module = TRAINING_SCENES[scene]
    report = started.report(scene, action)
    assert report["checked_forward"]
    assert report["first_module"] == module


@trainings(["log", *ENDING])
def test_world_rank_zero_alone_warns_first(started: Started, scene: str, action: str) -> None:
    first, *others = [found["warnings"] for found in started.found(scene, action)]
    assert first[0] == started.report(scene, action)["message"]
    assert others == [[]] * len(others)


@trainings(["stop"])
def test_stop_ends_every_rank_after_the_bad_step(started: Started, scene: str, action: str) -> None:
    for found in started.found(scene, action):
        assert (found["step"], found["raised"]) == (bad_step(scene), None)


@trainings(["raise"])
def test_raise_raises_the_report_on_every_rank(started: Started, scene: str, action: str) -> None:
    report = started.report(scene, action)
    written = {key: report[key] for key in report.keys() - {"step", "time", "loss"}}
    for found in started.found(scene, action):
        assert found["step"] == bad_step(scene) - 1
        assert {key: found["raised"][key] for key in written} == written


@trainings(ENDING)
def test_the_weights_are_those_of_the_step_before(
    started: Started, scene: str, action: str
) -> None:
    assert all(found["weights_kept"] for found in started.found(scene, action))


@resumed_trainings()
def test_the_last_checkpoint_has_good_weights(started: Started, scene: str, action: str) -> None:
    for found in started.found(scene, action):
        assert found["resumed"]["checkpoint"] == f"checkpoint-{SAVED_STEP}"
        assert found["resumed"]["is_good"]


@resumed_trainings()
def test_a_resumed_training_ends_like_a_healthy_one(
    started: Started, scene: str, action: str
) -> None:
    for found in started.found(scene, action):
        assert found["resumed"]["step"] == STEPS
        assert math.isfinite(found["resumed"]["loss"])
        assert found["resumed"]["is_as_healthy"]


@trainings(["log"], TRAINING_SCENES.keys() - {"weight"})
def test_bad_steps_are_counted_until_weights_are_damaged(
    started: Started, scene: str, action: str
) -> None:
    cause, names, _ = TRAINING_SCENES[scene]
    bad = started.report(scene, action)["damaged_weights"] != []
    # The window of the third and the fourth step.
    steps = 2 if bad else 1
    expected = {}
    if cause == "loss" or bad:
        expected["health/nonfinite_losses", 4] = float(steps if cause == "loss" else 1)
    if names:
        expected["health/nonfinite_gradients", 4] = float(steps)
    if names and started.mode.endswith("fp16"):
        expected["health/skipped_steps", 4] = 1.0
    if bad:
        # The fifth step is after the last logging step.
        expected["health/nonfinite_losses", 5] = 1.0
        expected["health/nonfinite_gradients", 5] = 1.0
    assert started.counted(scene, action) == expected


@trainings(["log", "raise"], ["evaluation"])
def test_bad_evaluation_batches_are_counted_and_reported(
    started: Started, scene: str, action: str
) -> None:
    report = started.report(scene, action)
    assert (report["cause"], report["bad_step"], report["batches"]) == ("evaluation", 2, 1)
    counted = started.counted(scene, action)
    assert counted == {("health/nonfinite_eval_batches", step): 1.0 for step in (2, 4, 5)}


@trainings(["raise"], ["evaluation"])
def test_a_bad_evaluation_does_not_end_the_training(
    started: Started, scene: str, action: str
) -> None:
    for found in started.found(scene, action):
        assert (found["step"], found["raised"]) == (STEPS, None)
        assert found["weights_kept"]


@trainings(["log", "stop"], ["overflow"])
def test_an_overflow_of_the_loss_scale_is_no_damage(
    started: Started, scene: str, action: str
) -> None:
    for found in started.found(scene, action):
        assert (found["step"], found["reports"]) == (STEPS, [])


@trainings(["log", "stop"], ["overflow"])
def test_skipped_steps_are_counted(started: Started, scene: str, action: str) -> None:
    counted = started.counted(scene, action)
    assert {tag for tag, _ in counted} == {"health/skipped_steps"}


@trainings(["stop"], ["overflow"])
def test_an_overflow_does_not_end_the_training(started: Started, scene: str, action: str) -> None:
    assert all(found["weights_kept"] for found in started.found(scene, action))
