"""What a report says, as a message, as a card and as JSON."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tbtrainer.event_file.json_lines import MOST_BYTES, json_line
from tbtrainer.observers.health_report import HealthReport, HistoryStep
from tbtrainer.observers.health_reports import MOST_REPORTS

NAN = float("nan")
BACKWARD = HealthReport(
    "backward",
    5,
    loss=2.0,
    learning_rates={"group_0": 5e-5},
    bad_gradients=("embed.weight", "layers.0.weight"),
    history=(HistoryStep(3, 2.5, 1.0, 0.25), HistoryStep(4, None, None, None)),
)
BEGAN = (
    "NaN or infinity began in the backward pass of step 5 at layers.0.weight, the parameter "
    "nearest to the loss whose gradient is not finite."
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, BEGAN),
        ({"bad_gradients": ()}, "NaN or infinity began in the backward pass of step 5."),
        ({"cause": "loss", "loss_rank": 0}, "The loss itself was not finite at step 5."),
        (
            {"cause": "loss", "loss_rank": 3, "ranks": 4},
            "The loss itself was not finite at step 5 on rank 3.",
        ),
        (
            {"cause": "loss_scale"},
            "Gradients of step 5 overflowed although the loss scale is below 1; the one nearest to "
            "the loss is that of layers.0.weight.",
        ),
        (
            {"cause": "weights"},
            "Gradients of step 5 were not finite; the one nearest to the loss is that of "
            "layers.0.weight.",
        ),
        ({"cause": "weights", "loss_rank": 0}, "The loss itself was not finite at step 5."),
    ],
)
def test_the_first_sentence_says_what_it_began_with(changes: dict[str, Any], said: str) -> None:
    assert replace(BACKWARD, **changes).message == f"{said} The step was applied."


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "The step was applied."),
        (
            {"applied": False},
            "The step was not applied: the loss scaler or DeepSpeed skipped it. A single step of "
            "this kind can be an overflow of the loss scale.",
        ),
        (
            {"applied": False, "action": "stop"},
            "The step was not applied: nonfinite_action='stop' ended the training.",
        ),
    ],
)
def test_the_last_sentence_says_what_became_of_the_step(changes: dict[str, Any], said: str) -> None:
    assert replace(BACKWARD, **changes).message == f"{BEGAN} {said}"


@pytest.mark.parametrize(
    ("names", "since", "said"),
    [
        (("a",), 5, "The weights are already damaged since step 5: a."),
        (("a", "b", "c"), 4, "since step 4: a and 2 other parameter(s)."),
        (("a",), 0, "damaged since before the first step of this training: a."),
    ],
)
def test_damaged_weights_are_said(names: tuple[str, ...], since: int, said: str) -> None:
    assert said in replace(BACKWARD, damaged_weights=names, damaged_since=since).message


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("layers.1", "layers.1 is the first module whose output is not finite"),
        (None, "no module turned finite inputs into an output that is not finite."),
    ],
)
def test_a_second_forward_pass_is_said(module: str | None, said: str) -> None:
    assert said not in BACKWARD.message
    assert said in replace(BACKWARD, checked_forward=True, first_module=module).message


@pytest.mark.parametrize(("loss_rank", "is_said"), [(None, False), (0, True)])
def test_a_loss_without_a_bad_module_points_to_the_batch(
    loss_rank: int | None, is_said: bool
) -> None:
    message = replace(BACKWARD, checked_forward=True, loss_rank=loss_rank).message
    assert ("the batch itself" in message) == is_said


@pytest.mark.parametrize(("dataset", "of"), [(None, ""), ("books", " of books")])
def test_an_evaluation_is_said_alone(dataset: str | None, of: str) -> None:
    report = HealthReport("evaluation", 8, dataset=dataset, batches=3, applied=False)
    assert report.message == (
        f"In the evaluation{of} after step 8, the loss of 3 batch(es) was not finite."
    )


def test_values_are_those_of_the_line() -> None:
    values = json.loads(json.dumps(BACKWARD.values()))
    assert list(values) == [
        "cause",
        "bad_step",
        "message",
        "nearest_to_loss",
        "loss",
        "loss_rank",
        "learning_rates",
        "bad_gradients",
        "damaged_weights",
        "damaged_since",
        "applied",
        "action",
        "first_module",
        "checked_forward",
        "dataset",
        "batches",
        "history",
        "suppressed",
        "ranks",
        "bad_gradient_count",
        "damaged_weight_count",
    ]
    assert values["nearest_to_loss"] == "layers.0.weight"
    assert values["bad_gradients"] == ["embed.weight", "layers.0.weight"]
    assert values["history"][0] == {
        "step": 3,
        "loss": 2.5,
        "grad_norm": 1.0,
        "parameter_grad_norm": 0.25,
    }


def test_a_line_lists_the_gradients_nearest_to_the_loss() -> None:
    names = tuple(f"layers.{number}.weight" for number in range(20_000))
    values = replace(BACKWARD, bad_gradients=names).values()
    assert values["bad_gradients"] == names[-128:]
    assert values["bad_gradient_count"] == 20_000


def test_a_line_lists_the_first_damaged_weights() -> None:
    names = tuple(f"layers.{number}.weight" for number in range(20_000))
    values = replace(BACKWARD, damaged_weights=names, damaged_since=5).values()
    assert values["damaged_weights"] == names[:128]
    assert values["damaged_weight_count"] == 20_000


def test_lines_of_all_reports_fit_into_the_file() -> None:
    names = tuple(f"model.layers.{n}.mlp.experts.{n}.down_proj.weight" for n in range(20_000))
    report = replace(BACKWARD, bad_gradients=names, damaged_weights=names, damaged_since=5)
    lines = MOST_REPORTS * json_line(report.values(), 1_000_000, 1.8e9)
    assert len(lines) <= MOST_BYTES


def test_unknown_learning_rates_are_an_empty_object() -> None:
    assert HealthReport("loss", 1, loss_rank=0).values()["learning_rates"] == {}


def test_the_card_has_rates_names_and_history() -> None:
    card = replace(BACKWARD, damaged_weights=("head.bias",), damaged_since=5, suppressed=2).card()
    assert card.startswith("**NaN or infinity began")
    assert "Learning rates: group_0 5e-05" in card
    assert "Gradients that are not finite: `embed.weight`, `layers.0.weight`" in card
    assert "Weights that are not finite: `head.bias`" in card
    assert "Bad steps since the last report: 2" in card
    table = [line for line in card.splitlines() if line.startswith("|")]
    assert table == [
        "| step | loss | norm of all gradients | gradient norm of `layers.0.weight` |",
        "|---|---|---|---|",
        "| 3 | 2.5 | 1 | 0.25 |",
        "| 4 | – | – | – |",
    ]


def test_the_card_lists_ten_names_and_counts_the_others() -> None:
    names = tuple(f"layers.{number}.weight" for number in range(25))
    card = replace(BACKWARD, bad_gradients=names).card()
    listed = next(part for part in card.split("\n\n") if part.startswith("Gradients"))
    assert listed.count("`") == 20
    assert listed.endswith(" and 15 more")
