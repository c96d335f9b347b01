"""TensorBoard itself, with either of its loaders, shows what a training wrote."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tbtrainer import TBTrainer, TBTrainingArguments, tags
from tests.tensorboard_server import TensorBoardServer, tensorboard
from tests.tiny import arguments, trainer

WEIGHT = "bert.encoder.layer.0.attention.self.query.weight"
SNAPSHOTS = [4, 8, 10]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TBTrainer:
    directory = tmp_path_factory.mktemp("run")
    args = arguments(
        TBTrainingArguments,
        directory / "out",
        logging_dir=str(directory / "board"),
        histogram_steps=4,
        eval_strategy="steps",
        eval_steps=5,
        save_strategy="steps",
        save_steps=5,
        telemetry_errors="raise",
    )
    made = trainer(TBTrainer, args)
    made.train()
    return made


@pytest.fixture(scope="module", params=[True, False], ids=["load_fast", "load_slow"])
def server(trained: TBTrainer, request: pytest.FixtureRequest) -> Iterator[TensorBoardServer]:
    with tensorboard(Path(trained.writer.log_dir), load_fast=request.param) as running:
        running.wait_for("scalars", "train/train_loss")
        yield running


def test_scalars_have_the_values_of_the_log_history(
    server: TensorBoardServer, trained: TBTrainer
) -> None:
    shown = server.ask("plugin/scalars/scalars", run=".", tag="train/loss")
    logged = [(e["step"], e["loss"]) for e in trained.state.log_history if "loss" in e]
    assert [step for _, step, _ in shown] == [step for step, _ in logged]
    assert [value for _, _, value in shown] == pytest.approx([v for _, v in logged], rel=1e-6)


def test_evaluation_and_norms_are_among_the_scalars(server: TensorBoardServer) -> None:
    shown = server.tags("scalars")
    for tag in (
        "eval/loss",
        "grad_norm/total",
        "grad_norm_per_block/bert.encoder.layer.0",
        "train/grad_norm",
    ):
        assert tag in shown


@pytest.mark.parametrize(
    ("plugin", "tag"),
    [("scalars", "grad_norm/max"), ("histograms", f"gradients/{WEIGHT}")],
)
def test_a_card_carries_the_description_of_its_tag(
    server: TensorBoardServer, plugin: str, tag: str
) -> None:
    shown = server.ask(f"plugin/{plugin}/tags")["."][tag]["description"]
    # TensorBoard renders it as Markdown.
    words = re.sub(r"<[^>]+>", "", shown).strip()
    assert words == tags.description_of(tag).replace("`", "")


def test_no_group_of_stock_holds_a_tag_of_ours(server: TensorBoardServer) -> None:
    groups = {tag.split("/")[0] for tag in server.tags("scalars")}
    assert groups == {
        *("train", "eval", "grad_norm", "grad_norm_per_block"),
        *("health", "hparams", "throughput", "step_phases", "memory", "tbtrainer"),
    }


@pytest.mark.parametrize("plugin", ["histograms", "distributions"])
def test_every_parameter_and_gradient_has_a_tag(
    server: TensorBoardServer, trained: TBTrainer, plugin: str
) -> None:
    names = [name for name, _ in trained.model.named_parameters()]
    expected = {f"{target}/{n}" for target in ("parameters", "gradients") for n in names}
    assert expected == set(server.tags(plugin))


@pytest.mark.parametrize("target", ["parameters", "gradients"])
def test_histograms_hold_every_element_at_every_snapshot(
    server: TensorBoardServer, trained: TBTrainer, target: str
) -> None:
    elements = dict(trained.model.named_parameters())[WEIGHT].numel()
    shown = server.ask("plugin/histograms/histograms", run=".", tag=f"{target}/{WEIGHT}")
    assert [step for _, step, _ in shown] == SNAPSHOTS
    for _, _, buckets in shown:
        assert sum(count for _, _, count in buckets) == pytest.approx(elements)


def test_the_last_histogram_spans_the_weights(
    server: TensorBoardServer, trained: TBTrainer
) -> None:
    weight = dict(trained.model.named_parameters())[WEIGHT]
    shown = server.ask("plugin/histograms/histograms", run=".", tag=f"parameters/{WEIGHT}")
    buckets = shown[-1][2]
    assert buckets[0][0] == pytest.approx(weight.min().item(), rel=1e-6)
    assert buckets[-1][1] == pytest.approx(weight.max().item(), rel=1e-6)


def test_distributions_have_a_band_at_every_snapshot(server: TensorBoardServer) -> None:
    shown = server.ask("plugin/distributions/distributions", run=".", tag=f"gradients/{WEIGHT}")
    assert [step for _, step, _ in shown] == SNAPSHOTS


@pytest.mark.parametrize("card", ["arguments", "model", "environment"])
def test_a_card_of_the_run_is_drawn_as_tables(server: TensorBoardServer, card: str) -> None:
    (shown,) = server.ask("plugin/text/text", run=".", tag=f"run/{card}/text_summary")
    tables = {"arguments": 13, "model": 2, "environment": 3}[card]
    assert shown["text"].count("<thead>") == tables
    # No row was taken for a text.
    assert "| ---" not in shown["text"] and "<p>|" not in shown["text"]


def test_arguments_and_checkpoints_are_shown_as_text(server: TensorBoardServer) -> None:
    cards = {"args", "model_config", "run/arguments", "run/model", "run/environment"}
    assert {f"{card}/text_summary" for card in cards} <= set(server.tags("text"))
    cards = server.ask("plugin/text/text", run=".", tag="checkpoint/saved/text_summary")
    assert [card["step"] for card in cards] == [5, 10]
    assert "checkpoint-10" in cards[-1]["text"]
