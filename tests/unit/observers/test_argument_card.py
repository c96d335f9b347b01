"""The card of the arguments: what differs from the defaults, and all of them by topic."""

from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from tbtrainer import Panel, TBSeq2SeqTrainingArguments, TBTrainingArguments, tags
from tbtrainer.given_arguments import telemetry_arguments
from tbtrainer.observers.argument_card import ArgumentTables
from tbtrainer.observers.argument_topics import topic_of
from tbtrainer.redaction import redacted
from tests.tiny import arguments

TOKEN = "hf_" + "a1B2c3D4" * 4
QUIET: dict[str, Any] = {"output_dir": "out", "report_to": "none", "use_cpu": True}


def card(given: Any, writes: bool = True) -> str:
    """The text of the card; empty if there is none."""
    training: Any = SimpleNamespace(
        training_arguments=given,
        arguments=telemetry_arguments(given),
        is_world_process_zero=writes,
    )
    texts = ArgumentTables().run_begins(0, training)
    assert all(text.once and text.tag == tags.RUN_ARGUMENTS.name for text in texts)
    return texts[0].text if texts else ""


def changed(given: Any) -> dict[str, tuple[str, str]]:
    """Value and default of each argument in the first table."""
    first = card(given).split("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in first.splitlines()[2:]]
    return {
        name.strip("`"): (value.strip("`"), default.strip("`")) for name, value, default in rows
    }


def test_defaults_are_not_among_what_differs() -> None:
    # A device makes `dataloader_pin_memory` differ by itself.
    found = set(changed(TBTrainingArguments(**QUIET))) - {"dataloader_pin_memory", "use_cpu"}
    assert found == {"output_dir"}


def test_what_differs_is_shown_with_its_default() -> None:
    found = changed(TBTrainingArguments(learning_rate=0.25, eval_strategy="epoch", **QUIET))
    assert found["learning_rate"] == ("0.25", "5e-05")
    assert found["eval_strategy"] == ("epoch", "no")
    assert "do_eval" not in found


def test_arguments_of_tensorboard_are_shown_without_their_fields() -> None:
    text = card(TrainingArguments(**QUIET))
    assert "| `histogram_steps` | `0.02` |" in text


@pytest.mark.parametrize("cls", [TBSeq2SeqTrainingArguments, Seq2SeqTrainingArguments])
def test_every_field_of_transformers_has_a_topic(cls: type) -> None:
    assert [f.name for f in fields(cls) if topic_of(f.name) == "Other"] == ["local_rank"]


@dataclass
class MyArguments(TBTrainingArguments):
    """What a user adds to the arguments."""

    dropout_of_mine: float = 0.5
    api_key: str = "nothing"


def test_a_field_of_a_user_is_shown_as_well() -> None:
    text = card(MyArguments(dropout_of_mine=0.125, **QUIET))
    assert changed(MyArguments(dropout_of_mine=0.125, **QUIET))["dropout_of_mine"] == (
        "0.125",
        "0.5",
    )
    assert "| Other | value |" in text


def test_secrets_are_hidden_in_every_table() -> None:
    text = card(MyArguments(hub_token=TOKEN, api_key="MARKER7f3a9c", **QUIET))
    assert TOKEN not in text
    assert "MARKER7f3a9c" not in text
    assert text.count("| `hub_token` | `<hidden>`") == 2


class Mine(Panel):
    """A panel of a user."""

    name = "mine"


def test_a_panel_is_shown_by_its_name() -> None:
    found = changed(TBTrainingArguments(evaluation_panels=["auto", Mine()], **QUIET))
    assert found["evaluation_panels"][0] == '["auto", "mine"]'


def test_a_value_does_not_break_its_table() -> None:
    text = card(TBTrainingArguments(run_name="a | b\n`c`", **QUIET))
    assert "a &#124; b &#96;c&#96;" in text


def test_nothing_of_the_card_is_taken_for_a_secret() -> None:
    given = arguments(TBTrainingArguments, "out")
    assert redacted(card(given)) == card(given)


def test_other_ranks_make_no_card() -> None:
    assert card(TBTrainingArguments(**QUIET), writes=False) == ""
