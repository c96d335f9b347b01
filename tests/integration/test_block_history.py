"""The pictures of the blocks are whole: in TensorBoard, after a crash, a resume and a stop."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import TrainerCallback

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.events import event_files, json_lines, values
from tests.integration.test_resume import Crash, CrashAt
from tests.tensorboard_server import tensorboard
from tests.tiny import arguments, classifier, trainer

TARGETS = ["parameters", "gradients", "updates", "activations"]
PICTURES = {
    "model_depth/gradient_rms",
    "model_depth/parameter_rms",
    "model_depth/update_ratio",
    "model_depth/activation_rms",
}
BLOCKS = ["bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler.dense", "classifier"]


def trained(
    directory: Path, *callbacks: TrainerCallback, resume: bool = False, **changes: Any
) -> TBTrainer:
    """A training with ten snapshots and two pictures, of steps 5 and 10."""
    chosen = {"histogram_targets": TARGETS, "telemetry_errors": "raise", **changes}
    args = arguments(TBTrainingArguments, directory, **chosen)
    made = trainer(TBTrainer, args, callbacks=list(callbacks))
    for callback in callbacks:
        if isinstance(callback, CrashAt):
            callback.trainer = made
    made.train(resume_from_checkpoint=resume)
    return made


def pictures(directory: Path) -> dict[tuple[str, int], bytes]:
    return {
        (value.tag, step): value.image.encoded_image_string
        for file in event_files(directory)
        for step, value in values(file)
        if value.tag.startswith("model_depth/")
    }


def lines(directory: Path, target: str) -> list[dict[str, Any]]:
    (file,) = directory.rglob(f"blocks-{target}.jsonl")
    return json_lines(file)


def test_tensorboard_shows_pictures_and_cards(tmp_path: Path) -> None:
    # A high learning rate changes blocks by large factors.
    made = trained(tmp_path, learning_rate=1.0, lr_scheduler_type="constant", optim="sgd")
    run = Path(made.writer.log_dir)
    with tensorboard(run, load_fast=True) as server:
        server.wait_for("images", "model_depth/update_ratio")
        assert {tag for tag in server.tags("images") if tag.startswith("model_depth/")} == PICTURES
        for tag in PICTURES:
            shown = server.ask("plugin/images/images", run=".", tag=tag, sample="0")
            assert [image["step"] for image in shown] == [5, 10]
        server.wait_for("text", "outliers/gradients/text_summary")


def test_numbers_are_those_of_the_weights(tmp_path: Path) -> None:
    made = trained(tmp_path)
    last = lines(tmp_path, "parameters")[-1]
    assert last["step"] == 10
    assert last["blocks"][-len(BLOCKS) :] == BLOCKS
    for at, block in enumerate(last["blocks"]):
        parts = [p for name, p in made.model.named_parameters() if name.startswith(f"{block}.")]
        elements = torch.cat([part.detach().double().flatten() for part in parts])
        rms = float(elements.square().mean().sqrt())
        assert last["rms"][at] == pytest.approx(rms, rel=1e-5)
        assert last["abs_max"][at] == pytest.approx(float(elements.abs().max()), rel=1e-5)
        assert last["zeros"][at] == pytest.approx(float((elements == 0).double().mean()), rel=1e-5)
        fourth = float(elements.pow(4).mean())
        assert last["kurtosis"][at] == pytest.approx(fourth / rms**4, rel=0.14)


def test_the_picture_of_a_resumed_run_is_whole(tmp_path: Path) -> None:
    trained(tmp_path / "whole")
    saving = {"save_strategy": "steps", "save_steps": 4}
    with pytest.raises(Crash):
        trained(tmp_path / "broken", CrashAt(7), **saving)
    trained(tmp_path / "broken", resume=True, **saving)
    for target in TARGETS:
        whole, broken = (lines(tmp_path / name, target) for name in ("whole", "broken"))
        assert [line["step"] for line in broken] == list(range(1, 11))
        for one, other in zip(whole, broken, strict=True):
            assert {**one, "time": 0} == {**other, "time": 0}
    assert pictures(tmp_path / "whole") == pictures(tmp_path / "broken")


def test_a_resumed_run_without_the_files_begins_new_ones(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4}
    with pytest.raises(Crash):
        trained(tmp_path, CrashAt(7), **saving)
    for file in tmp_path.rglob("blocks-*.jsonl"):
        file.write_bytes(b"not a line\n")
    trained(tmp_path, resume=True, **saving)
    (file,) = tmp_path.rglob("blocks-gradients-1.jsonl")
    assert [line["step"] for line in json_lines(file)] == list(range(5, 11))
    assert ("model_depth/gradient_rms", 10) in pictures(tmp_path)


class StopAt(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 7


def test_a_run_that_is_stopped_has_a_last_picture(tmp_path: Path) -> None:
    trained(tmp_path, StopAt(), histogram_steps=2)
    steps = {step for tag, step in pictures(tmp_path) if tag == "model_depth/parameter_rms"}
    assert steps == {7}
    assert [line["step"] for line in lines(tmp_path, "parameters")] == [2, 4, 6, 7]
    assert [line["step"] for line in lines(tmp_path, "gradients")] == [2, 4, 6]
    assert {step for tag, step in pictures(tmp_path) if tag == "model_depth/gradient_rms"} == {7}


def test_lines_of_another_origin_leave_the_training_as_it_is(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4}
    with pytest.raises(Crash):
        trained(tmp_path, CrashAt(7), **saving)
    (file,) = tmp_path.rglob("blocks-gradients.jsonl")
    first = json.loads(file.read_text().splitlines()[0])
    forged = [
        {**first, "blocks": [".".join("a" * 100_000)], "nonfinite": [0]},
        {**first, "blocks": "abc"},
        {**first, "step": 10**30},
        {**first, "step": -1, "time": 9e99},
    ]
    nested = json.dumps(first).replace('"blocks": [', '"blocks": [' + "[" * 900 + "]" * 900 + ", ")
    file.write_text("".join(json.dumps(line) + "\n" for line in forged) + nested + "\n")
    trained(tmp_path, resume=True, telemetry_errors="raise", **saving)
    assert ("model_depth/gradient_rms", 10) in pictures(tmp_path)


def test_only_the_targets_of_a_run_have_pictures(tmp_path: Path) -> None:
    trained(tmp_path / "one", histogram_targets=["gradients"])
    assert {tag for tag, _ in pictures(tmp_path / "one")} == {"model_depth/gradient_rms"}
    trained(tmp_path / "none", histogram_strategy="no")
    assert pictures(tmp_path / "none") == {}
    assert list((tmp_path / "none").rglob("blocks-*")) == []


def test_without_matplotlib_the_rest_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # As if it were not installed.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    trained(tmp_path)
    assert pictures(tmp_path) == {}
    assert len(lines(tmp_path, "gradients")) == 10
    assert sum("matplotlib" in record.getMessage() for record in caplog.records) == 1


def test_a_picture_that_fails_loses_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # matplotlib is installed, and broken.
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    trained(tmp_path, telemetry_errors="warn", histogram_targets=["gradients"])
    assert pictures(tmp_path) == {}
    assert len(lines(tmp_path, "gradients")) == 10
    assert sum("tbtrainer could not" in record.getMessage() for record in caplog.records) == 1


def test_nan_has_a_colour_of_its_own(tmp_path: Path) -> None:
    model = classifier()
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    args = arguments(TBTrainingArguments, tmp_path, histogram_targets=["parameters"])
    trainer(TBTrainer, args, model=model).train()
    assert lines(tmp_path, "parameters")[-1]["nonfinite"][-1] > 0
    png = pictures(tmp_path)["model_depth/parameter_rms", 10]
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert (pixels == (214, 0, 0)).all(axis=2).sum() > 1000
