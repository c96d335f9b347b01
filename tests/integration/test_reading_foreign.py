"""`read_run` on real runs of Lightning and Keras: tests/foreign_runs/make_runs.py made them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tbtrainer.reading import Run, find_runs, read_run

RUNS = Path(__file__).parents[1] / "foreign_runs"
EXPECTED: dict[str, Any] = json.loads((RUNS / "expected.json").read_text())


def values(run: Run, tag: str) -> list[float]:
    return [record.value for record in run.iter_records([tag])]


def steps(run: Run, tag: str) -> list[int]:
    return [record.step for record in run.iter_records([tag])]


def test_every_foreign_run_is_found_and_read_whole() -> None:
    names = [str(Path(path).relative_to(RUNS)) for path in find_runs(RUNS)]
    expected = ["other", "train", "trial", "validation"]
    assert names == [*(f"keras/{name}" for name in expected), "lightning/version_0"]
    files = [file for path in find_runs(RUNS) for file in read_run(path).files]
    assert {(file.unread_bytes, file.reason) for file in files} == {(0, "")}
    assert sum(file.events for file in files) > 100


# ---- Lightning ----


@pytest.fixture(scope="module")
def lightning() -> Run:
    """A training of two epochs that was resumed after the first one, in the same directory."""
    return read_run(RUNS / "lightning" / "version_0")


def test_a_resumed_run_of_lightning_is_one_curve(lightning: Run) -> None:
    assert steps(lightning, "train_loss") == list(range(16))
    assert steps(lightning, "val_loss") == [7, 15]
    assert steps(lightning, "weights") == [0, 1]
    sessions = [record.session for record in lightning.iter_records(["train_loss"])]
    assert sessions == [0] * 8 + [1] * 8


def test_values_of_lightning_are_those_it_computed(lightning: Run) -> None:
    resumed = [(step, np.float32(loss)) for step, loss in EXPECTED["lightning"]["resumed_losses"]]
    found = list(zip(steps(lightning, "train_loss"), values(lightning, "train_loss"), strict=True))
    assert found[8:] == resumed


def test_both_attempts_of_lightning_are_there_when_asked_for() -> None:
    run = read_run(RUNS / "lightning" / "version_0", include_rewound=True)
    assert steps(run, "train_loss") == [*range(16), *range(8, 16)]


def test_hyper_parameters_of_lightning_are_read(lightning: Run) -> None:
    assert lightning.hparams.values == {"rate": 0.1, "width": 3.0}
    assert lightning.hparams.metrics == ("hp_metric",)


def test_texts_and_pictures_of_lightning_are_read(lightning: Run) -> None:
    assert lightning.texts.text.tolist() == ["epoch 0", "epoch 1"]
    assert lightning.images[["width", "height"]].values.tolist() == [[5, 4]] * 2


# ---- Keras and TensorFlow 2, whose values are tensors ----


def test_curves_of_keras_are_its_history() -> None:
    history = EXPECTED["keras"]["history"]
    train, validation = read_run(RUNS / "keras" / "train"), read_run(RUNS / "keras" / "validation")
    for run, tag, name in (
        (train, "epoch_loss", "loss"),
        (train, "epoch_mae", "mae"),
        (validation, "epoch_loss", "val_loss"),
    ):
        assert values(run, tag) == pytest.approx(history[name], rel=1e-6)
        assert steps(run, tag) == [0, 1, 2]


def test_histograms_of_keras_have_the_range_of_the_weights() -> None:
    frame = read_run(RUNS / "keras" / "train").histograms
    last = frame[frame.tag == "sequential/line/kernel/histogram"].iloc[-1]
    found = [last["min"], last["max"], last["count"]]
    assert found == pytest.approx(EXPECTED["keras"]["last_weights"])


def test_hyper_parameters_of_keras_are_read() -> None:
    found = read_run(RUNS / "keras" / "trial").hparams
    assert found.values == EXPECTED["keras"]["settings"]
    assert found.status == "success" and found.start_time is not None


def test_scalars_of_tensorflow_have_values_and_a_description() -> None:
    run = read_run(RUNS / "keras" / "other")
    # TensorFlow writes every scalar as a float32.
    assert values(run, "double") == [0.0, np.float32(1 / 3), np.float32(2 / 3)]
    assert values(run, "whole") == [0.0, 1.0, 2.0]
    assert values(run, "nothing") == [0.0, 0.0, 0.0]
    assert run.tags()["nothing"].description == "Always **zero**."


def test_every_picture_of_a_step_is_a_row() -> None:
    frame = read_run(RUNS / "keras" / "other").images
    assert frame.step.tolist() == [0, 0, 1, 1, 2, 2]
    for step, stored in zip(frame.step, frame.image, strict=True):
        with Image.open(io.BytesIO(stored.read())) as picture:
            assert picture.getpixel((0, 0)) == (step, step, step)


def test_quantiles_of_tensorflow_are_those_of_the_numbers() -> None:
    frame = read_run(RUNS / "keras" / "other").histograms
    numbers = np.arange(100.0) * 2
    last = frame.iloc[-1]
    exact = np.quantile(numbers, [0.05, 0.5, 0.95])
    assert [last.p5, last.p50, last.p95] == pytest.approx(exact, abs=numbers.max() / 10)
    assert last["mean"] == pytest.approx(numbers.mean(), rel=0.02)


def test_lines_of_a_text_are_joined() -> None:
    assert read_run(RUNS / "keras" / "other").texts.text.tolist() == ["first\nsecond"] * 3
