"""In every mode the training is unchanged, and the run shows the same whole tensors."""

from pathlib import Path
from typing import Any

import pytest

from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.arguments import HISTOGRAM_TARGETS
from tests.distributed.launch import launch, needs_deepspeed
from tests.distributed.training_modes import CHANGES, SHOWN
from tests.events import Histogram, event_files, histograms, scalars, text
from tests.tiny import arguments, classifier, trainer

# What shows that a mode is on: distributed type, wrapper, share of the parameters on each rank.
MODES = {
    "fsdp1": ("DistributedType.FSDP", "FullyShardedDataParallel", 0.5),
    "fsdp2": ("DistributedType.FSDP", "FSDPBertForSequenceClassification", 0.6),
    "zero1": ("DistributedType.DEEPSPEED", "DeepSpeedEngine", 1.0),
    "zero2": ("DistributedType.DEEPSPEED", "DeepSpeedEngine", 1.0),
    "zero3": ("DistributedType.DEEPSPEED", "DeepSpeedEngine", 0.5),
}
ELEMENTS = 6034
# Name of the mode, the verdicts of both ranks, and the event file.
Trained = tuple[str, list[dict[str, Any]], Path]


def trained_in(mode: str, directory: Path) -> tuple[list[dict[str, Any]], Path]:
    """Trains in a mode; returns the verdicts of both ranks and the event file."""
    verdicts = launch("training_modes.py", mode, str(directory))
    (file,) = event_files(directory / "node-0" / "ours")
    return verdicts, file


@pytest.fixture(scope="module")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The event file of a training under DDP."""
    return trained_in("ddp", tmp_path_factory.mktemp("ddp"))[1]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(mode, marks=needs_deepspeed if mode.startswith("zero") else ())
        for mode in MODES
    ],
)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A training in each mode: one start of torchrun."""
    return request.param, *trained_in(request.param, tmp_path_factory.mktemp(request.param))


def test_the_mode_is_really_on(trained: Trained) -> None:
    mode, verdicts, _ = trained
    distributed_type, wrapper, share = MODES[mode]
    for verdict in verdicts:
        assert verdict["distributed_type"] == distributed_type
        assert verdict["wrapper"] == wrapper
        assert verdict["elements_here"] <= share * ELEMENTS
    if mode == "fsdp2":
        assert "DTensor" in verdicts[0]["parameters"]


def test_the_training_is_unchanged_on_every_rank(trained: Trained) -> None:
    _, verdicts, _ = trained
    assert [set(verdict["equal"].values()) for verdict in verdicts] == [{True}, {True}], verdicts


def group_of(tag: str, step: int) -> str:
    return tag.partition("/")[0]


def assert_alike(file: Path, ddp: Path, mode: str, gradient_scale: float = 1.0) -> None:
    """Compares histograms.

    Args:
        file: The event file of a mode.
        ddp: The event file of DDP.
        mode: Name of the mode.
        gradient_scale: By how much activation gradients of DDP are larger.
    """
    expected, shown = (
        {key: h for key, h in histograms(f).items() if group_of(*key) in HISTOGRAM_TARGETS}
        for f in (ddp, file)
    )
    assert shown.keys() == expected.keys()
    assert {group_of(*key) for key in shown} == set(HISTOGRAM_TARGETS)
    for key, reference in expected.items():
        histogram: Histogram = shown[key]
        assert histogram.count == reference.count == histogram.counts.sum(), key
        scale = gradient_scale if key[0].startswith("activation_gradients/") else 1.0
        # Sums in another order give other last bits, which is all that some gradients hold.
        if reference.sum_of_squares > 1e-12:
            for value in ("sum_of_squares", "minimum", "maximum"):
                power = 2 if value == "sum_of_squares" else 1
                assert getattr(histogram, value) * scale**power == pytest.approx(
                    getattr(reference, value), rel=1e-3, abs=1e-6
                ), (mode, key, value)


def test_the_histograms_are_those_of_ddp(trained: Trained, ddp: Path) -> None:
    mode, _, file = trained
    assert_alike(file, ddp, mode)


def test_the_histograms_of_one_process_are_those_of_ddp(tmp_path: Path) -> None:
    verdicts, ddp = trained_in("ddp-without-dropout", tmp_path / "ddp")
    assert verdicts[0]["wrapper"] == "DistributedDataParallel"
    # Two processes take the batches of one that are twice as large.
    values = {**CHANGES, **SHOWN, "per_device_train_batch_size": 8}
    args = arguments(TBTrainingArguments, tmp_path / "one", **values)
    trainer(TBTrainer, args, model=classifier(dropout=0.0)).train()
    (file,) = event_files(tmp_path / "one")
    # Each rank's loss is the mean of half of the batch.
    assert_alike(file, ddp, "one process", gradient_scale=2.0)


def test_targets_of_an_observer_are_shown_whole(trained: Trained) -> None:
    _, _, file = trained
    shown = histograms(file)
    of_parameters = {key for key in shown if key[0].startswith("parameters/")}
    for tag, step in of_parameters:
        own = shown[f"own_{tag}", step]
        for value in ("count", "sum", "sum_of_squares", "minimum", "maximum"):
            assert getattr(own, value) == getattr(shown[tag, step], value), (tag, step, value)
    losses = [histogram for (tag, _), histogram in shown.items() if tag == "own_loss/last"]
    # One loss of each rank per step, and they differ.
    assert len(losses) == len({step for _, step in of_parameters})
    assert all(histogram.count == 2 for histogram in losses)
    assert all(histogram.minimum < histogram.maximum for histogram in losses)


def test_the_gradient_norms_are_those_of_ddp(trained: Trained, ddp: Path) -> None:
    _, _, file = trained
    expected, shown = (
        {(tag, step): v for tag, step, v in scalars(f) if tag in ("grad_norm/total", "eval/loss")}
        for f in (ddp, file)
    )
    assert shown == pytest.approx(expected, rel=1e-4)


def test_the_curves_of_updates_are_those_of_ddp(trained: Trained, ddp: Path) -> None:
    _, _, file = trained
    for group in ("update_ratio/", "update_unchanged/"):
        expected, shown = (
            {(tag, step): v for tag, step, v in scalars(f) if tag.startswith(group)}
            for f in (ddp, file)
        )
        assert len(expected) > 30
        assert shown == pytest.approx(expected, rel=1e-3)


def test_the_card_of_the_model_counts_whole_tensors(trained: Trained, ddp: Path) -> None:
    mode, _, file = trained
    shown, expected = (text(f, "run/model/text_summary") for f in (file, ddp))
    assert f"| parameters | {ELEMENTS:,} |" in shown
    assert "| processes | 2 |" in shown
    # Only the rows about the sharding differ.
    assert shown.partition("| Block |")[2] == expected.partition("| Block |")[2]
    words = {"fsdp1": "FSDP1", "fsdp2": "DTensor"}.get(mode, f"ZeRO-{mode[-1]}")
    (sharding,) = (line for line in shown.splitlines() if line.startswith("| sharding |"))
    assert words in sharding
