"""`read_run` on the runs of real trainings, and of a writer that is still writing."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pandas
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import Trainer, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments, read_run, tags
from tbtrainer.reading import Run, find_runs
from tbtrainer.run import RunWriter
from tests.events import date_back
from tests.tiny import arguments, trainer

SAVING = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a training of 10 steps that was resumed from its fourth, and went to step 12."""
    output = tmp_path_factory.mktemp("output")
    made = trainer(TBTrainer, arguments(TBTrainingArguments, output, **SAVING))
    made.train()
    made.writer.add_scalar("orphan", 1.0, 9)
    made.writer.close()
    args = arguments(TBTrainingArguments, output, **{**SAVING, "max_steps": 12})
    trainer(TBTrainer, args).train(resume_from_checkpoint=str(output / "checkpoint-4"))
    (run,) = find_runs(output)
    return Path(run)


def accumulated(directory: Path) -> EventAccumulator:
    """TensorBoard's loader, without sampling."""
    sizes = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
    accumulator = EventAccumulator(str(directory), size_guidance=sizes)
    return accumulator.Reload()


def points(frame: pandas.DataFrame, tag: str) -> list[tuple[int, float]]:
    chosen = frame[frame.tag == tag]
    return list(zip(chosen.step.tolist(), chosen.value.tolist(), strict=True))


# ---- A run of tbtrainer ----


def test_scalars_of_a_resumed_run_are_those_of_tensorboard(resumed: Path) -> None:
    frame, expected = read_run(resumed).scalars, accumulated(resumed)
    assert set(frame.tag.unique()) == set(expected.Tags()["scalars"])
    for tag in frame.tag.unique():
        assert points(frame, tag) == [(e.step, e.value) for e in expected.Scalars(tag)], tag


def test_each_step_of_a_resumed_run_is_shown_once(resumed: Path) -> None:
    frame = read_run(resumed).scalars
    loss = frame[frame.tag == "train/loss"]
    assert loss.step.tolist() == [2, 4, 6, 8, 10, 12]
    assert loss.session.tolist() == [0, 0, 1, 1, 1, 1]
    assert "orphan" not in set(frame.tag)


def test_rewound_values_are_shown_when_asked_for(resumed: Path) -> None:
    frame = read_run(resumed, include_rewound=True).scalars
    loss = frame[frame.tag == "train/loss"]
    assert loss.step.tolist() == [2, 4, 6, 8, 10, 6, 8, 10, 12]
    assert loss.session.tolist() == [0] * 5 + [1] * 4
    assert points(frame, "orphan") == [(9, 1.0)]


def test_sessions_of_a_resumed_run_name_their_steps(resumed: Path) -> None:
    first, second = read_run(resumed).sessions
    assert (first.start_step, second.start_step) == (0, 5)
    assert (first.last_step, second.last_step) == (4, 12)
    assert first.last_wall_time <= second.first_wall_time


def test_histograms_are_those_of_tensorboard(resumed: Path) -> None:
    frame, expected = read_run(resumed).histograms, accumulated(resumed)
    assert set(frame.tag.unique()) == set(expected.Tags()["histograms"])
    for tag in frame.tag.unique():
        own, theirs = frame[frame.tag == tag], expected.Histograms(tag)
        assert own.step.tolist() == [event.step for event in theirs]
        for counts, event in zip(own.counts, theirs, strict=True):
            assert counts.tolist() == event.histogram_value.bucket
        assert own["min"].tolist() == [event.histogram_value.min for event in theirs]


def test_quantiles_of_weights_are_close_to_the_exact_ones(tmp_path: Path) -> None:
    made = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path, max_steps=2))
    made.train()
    (run,) = find_runs(tmp_path)
    frame = read_run(run).histograms
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    row = frame[(frame.tag == f"parameters/{name}") & (frame.step == 2)].iloc[0]
    weight = made.model.get_parameter(name).detach().double().numpy()
    assert row["count"] == weight.size
    assert row["rms"] == pytest.approx(np.sqrt(np.mean(weight**2)), rel=1e-5)
    for percent in (5, 25, 50, 75, 95):
        # Where the quantile lies in the weights, up to one bucket of 64.
        assert np.mean(weight <= row[f"p{percent}"]) == pytest.approx(percent / 100, abs=0.03)


def test_texts_and_pictures_of_a_run_are_read(resumed: Path) -> None:
    run = read_run(resumed)
    assert "args/text_summary" in set(run.texts.tag)
    pictures = run.images
    assert len(pictures) > 0 and (pictures.width > 0).all()
    assert all(picture.read().startswith(b"\x89PNG") for picture in pictures.image)


def test_tags_have_kinds_and_descriptions_of_the_declaration(resumed: Path) -> None:
    found = read_run(resumed).tags()
    declared = {tag.name: tag for tag in tags.TAGS}
    known = [name for name in found if name in declared and declared[name].kind == "scalar"]
    assert len(known) > 10
    assert {found[name].kind for name in known} == {"scalar"}
    assert [name for name in known if not found[name].description] == []


def test_hyper_parameters_and_end_of_a_run_are_read(resumed: Path) -> None:
    found = read_run(resumed).hparams
    assert found.values["learning_rate"] == 1e-3 and found.values["total_steps"] == 12
    assert "eval/loss" in found.metrics
    assert found.status == "success"


def test_the_health_of_a_sound_run_is_empty(resumed: Path) -> None:
    assert read_run(resumed).health == []


def test_a_copied_run_reads_the_same(resumed: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(resumed, tmp_path / "copy")
    pandas.testing.assert_frame_equal(read_run(copy).scalars, read_run(resumed).scalars)


def test_a_run_on_an_object_store_reads_the_same(
    resumed: Path, request: pytest.FixtureRequest
) -> None:
    store = fsspec.filesystem("memory")
    store.store.clear()
    request.addfinalizer(store.store.clear)
    store.put(f"{resumed}/", "/bucket/run", recursive=True)
    remote = read_run("memory://bucket/run")
    pandas.testing.assert_frame_equal(remote.scalars, read_run(resumed).scalars)
    assert remote.images.image[0].read() == read_run(resumed).images.image[0].read()


# ---- A stock `Trainer` ----


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock `Trainer` of 10 steps, resumed from step 4 in the same directory, to step 12."""
    output = tmp_path_factory.mktemp("stock")
    changes = {**SAVING, "report_to": "tensorboard"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", str(output / "logs"))
        trainer(Trainer, arguments(TrainingArguments, output, **changes)).train()
        date_back(output / "logs")
        longer = arguments(TrainingArguments, output, **{**changes, "max_steps": 12})
        trainer(Trainer, longer).train(resume_from_checkpoint=str(output / "checkpoint-4"))
    return output / "logs"


def test_a_resumed_stock_run_is_one_curve(stock: Path) -> None:
    run = read_run(stock)
    frame = run.scalars
    loss = frame[frame.tag == "train/loss"]
    assert loss.step.tolist() == [2, 4, 6, 8, 10, 12]
    assert loss.session.tolist() == [0, 0, 1, 1, 1, 1]
    assert frame[frame.tag == "eval/loss"].step.tolist() == [4, 8, 12]
    assert len(run.sessions) == 2


def test_all_values_of_a_stock_run_are_those_of_tensorboard(stock: Path) -> None:
    frame, expected = read_run(stock, include_rewound=True).scalars, accumulated(stock)
    assert set(frame.tag.unique()) == set(expected.Tags()["scalars"])
    for tag in frame.tag.unique():
        assert points(frame, tag) == [(e.step, e.value) for e in expected.Scalars(tag)], tag
    assert len(points(frame, "train/loss")) == 9


# ---- A run that is being written ----


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[RunWriter]:
    """A writer whose run is in `tmp_path`."""
    writer = RunWriter(str(tmp_path))
    yield writer
    writer.close()


def test_a_running_training_is_read_as_far_as_written(writing: RunWriter, tmp_path: Path) -> None:
    for step in range(1, 4):
        for tag in ("train/loss", f"new/{step}"):
            writing.add_scalar(tag, step / 2, step)
        writing.flush(10.0)
        run = read_run(tmp_path)
        assert run.scalars.step.max() == step
        assert [file.unread_bytes for file in run.files] == [0]
        assert run.tags()[f"new/{step}"].count == 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_every_beginning_of_a_run_can_be_read(resumed: Path, tmp_path: Path, share: float) -> None:
    copy = Path(shutil.copytree(resumed, tmp_path / "copy"))
    newest = max(path for path in copy.iterdir() if "tfevents" in path.name)
    size = newest.stat().st_size
    with open(newest, "r+b") as file:
        file.truncate(int(size * share))
    run, whole = Run(copy), Run(resumed)
    assert 0 < len(run.scalars) <= len(whole.scalars)
    assert run.files[-1].reason in ("", "torn")
    assert run.files[-1].bytes == int(size * share)
