"""What a panel is told: the logits of any model's output; and a panel as an argument."""

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import HfArgumentParser

from tbtrainer import Panel, TBTrainingArguments
from tbtrainer.given_arguments import telemetry_arguments
from tbtrainer.panels import PanelBatch
from tests.panel_evaluations import evaluation
from tests.panels import Counted

LOGITS = torch.arange(6.0).view(3, 2)
OTHER = torch.zeros(3, 5)
SCALAR = torch.tensor(1.0)


def logits_of(
    outputs: Any = None, predictions: Any = None, loss: Tensor | None = SCALAR
) -> Tensor | None:
    return PanelBatch(3, {}, outputs, predictions, torch.zeros(3), loss).logits


@pytest.mark.parametrize(
    "outputs",
    [
        {"hidden": OTHER, "logits": LOGITS},
        {"loss": SCALAR, "scores": LOGITS, "hidden": OTHER},
        {"loss": torch.zeros(2), "scores": LOGITS},
        (SCALAR, LOGITS, OTHER),
        (torch.zeros(2), LOGITS),
        (LOGITS, OTHER),
        LOGITS,
    ],
)
def test_logits_are_found_in_what_a_model_returns(outputs: Any) -> None:
    assert logits_of(outputs) is LOGITS


@pytest.mark.parametrize("predictions", [LOGITS, (LOGITS, OTHER)])
def test_without_outputs_the_predictions_are_the_logits(predictions: Any) -> None:
    assert logits_of(predictions=predictions, loss=None) is LOGITS


@pytest.mark.parametrize(
    "outputs",
    [
        {"loss": SCALAR, "logits": None, "encoder_last_hidden_state": OTHER},
        {"loss": SCALAR, "logits": (LOGITS, OTHER)},
        {"loss": SCALAR},
        {},
        (),
        (SCALAR,),
        (SCALAR, (OTHER, OTHER)),
        (torch.zeros(2),),
        None,
    ],
)
def test_an_output_without_logits_has_none(outputs: Any) -> None:
    assert logits_of(outputs) is None


def test_logits_of_one_number_each_are_no_loss() -> None:
    numbers = torch.zeros(3)
    assert logits_of((SCALAR, numbers)) is numbers


@pytest.mark.parametrize("dataset, tag", [(None, "eval/x"), ("news", "eval/news/x")])
def test_a_tag_has_the_name_of_the_dataset(dataset: str | None, tag: str) -> None:
    assert evaluation(dataset=dataset).tag("x") == tag


@pytest.mark.parametrize(
    "id2label, name", [({1: "good"}, "good"), ({"1": "good"}, "good"), ({}, "1"), (None, "1")]
)
def test_a_class_has_the_name_of_the_configuration(id2label: Any, name: str) -> None:
    assert evaluation(id2label=id2label).class_name(1) == name


def test_an_ended_evaluation_has_its_metrics() -> None:
    ended = evaluation().with_metrics({"eval_loss": 0.5})
    assert dict(ended.metrics) == {"eval_loss": 0.5} and ended.step == 3


class Named(Panel):
    """Has a name of its own."""

    name = "something"


class Heir(Named):
    """Gets the name of its class."""


class Taken(Panel):
    """Has the name of a panel of tbtrainer."""

    name = "mistakes"


class TooLate(Panel):
    """Has a name that is none."""

    name = ""


def test_a_panel_has_its_name_or_that_of_its_class() -> None:
    assert (Named().name, Heir().name) == ("something", "Heir")


def given(tmp_path: Path, *panels: Any, **changes: Any) -> TBTrainingArguments:
    return TBTrainingArguments(str(tmp_path), evaluation_panels=list(panels), **changes)


@pytest.mark.parametrize(
    "panels, said",
    [
        ("confusing", "auto, none"),
        ([3], "auto, none"),
        ([], "'none' alone, or 'auto'"),
        (None, "a text or a list of texts"),
        (["none", "auto"], "'none' alone"),
        (["none", Counted()], "'none' alone"),
        (["auto", "auto"], "has 'auto' twice; once is enough"),
        (["mistakes", Counted(), "mistakes"], "has 'mistakes' twice; once is enough"),
        ([Counted(), Counted()], "several panels of the name 'Counted'"),
        (["auto", Taken()], "several panels of the name 'mistakes'; give each one a `name`"),
        (Counted, "use an instance of it, such as Counted()"),
        (["auto", Counted], "use an instance of it, such as Counted()"),
        ([TooLate()], "the name ''"),
    ],
)
def test_a_wrong_panel_is_named_with_the_field(tmp_path: Path, panels: Any, said: str) -> None:
    with pytest.raises(ValueError) as raised:
        TBTrainingArguments(str(tmp_path), evaluation_panels=panels)
    assert "evaluation_panels=" in str(raised.value)
    assert said in str(raised.value)


@pytest.mark.parametrize("examples", [0, -1, 1.5, "many", True, 10**7])
def test_a_wrong_number_of_examples_is_named(tmp_path: Path, examples: Any) -> None:
    with pytest.raises(ValueError, match=r"evaluation_examples=.* from 1 to 1000000"):
        TBTrainingArguments(str(tmp_path), evaluation_examples=examples)


def test_one_panel_may_be_given_without_a_list(tmp_path: Path) -> None:
    panel = Counted()
    args = TBTrainingArguments(str(tmp_path), evaluation_panels=panel)  # type: ignore[arg-type]
    assert args.evaluation_panels == [panel]


def test_the_fields_are_flags_of_a_command_line(tmp_path: Path) -> None:
    flags = ["--output_dir", str(tmp_path), "--evaluation_panels", "none"]
    flags += ["--evaluation_examples", "5"]
    (args,) = HfArgumentParser(TBTrainingArguments).parse_args_into_dataclasses(flags)  # type: ignore[arg-type]
    assert (args.evaluation_panels, args.evaluation_examples) == (["none"], 5)


def test_arguments_with_a_panel_become_json(tmp_path: Path) -> None:
    args = given(tmp_path, "auto", Counted())
    assert json.loads(args.to_json_string())["evaluation_panels"] == ["auto", "Counted"]
    assert args.to_dict()["evaluation_panels"] == ["auto", "Counted"]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, replace, telemetry_arguments])
def test_a_copy_of_arguments_has_the_same_panel(tmp_path: Path, copied: Any) -> None:
    panel = Counted()
    assert copied(given(tmp_path, "auto", panel)).evaluation_panels[1] is panel


def test_pickled_arguments_have_the_name_of_a_panel(tmp_path: Path) -> None:
    class Local(Panel):
        """A class that cannot be pickled."""

    args = pickle.loads(pickle.dumps(given(tmp_path, "auto", Local())))
    assert args.evaluation_panels == ["auto", "Local"]
