"""The cards of the arguments and of the model's configuration."""

import json
from types import SimpleNamespace
from typing import Any

from torch import nn
from transformers import BertConfig, TrainingArguments

from tbtrainer import tags
from tbtrainer.observers.arguments import ArgumentCards
from tbtrainer.records import Text

TOKEN = "hf_" + "a1B2c3D4" * 4


def cards(config: Any = None, **arguments: Any) -> dict[str, Text]:
    model: Any = nn.Module()
    if config is not None:
        model.config = config
    given = TrainingArguments(output_dir="out", report_to="none", **arguments)
    training: Any = SimpleNamespace(unwrapped_model=model, training_arguments=given)
    return {card.tag: card for card in ArgumentCards().run_begins(0, training)}


def test_arguments_are_shown_as_json() -> None:
    shown = json.loads(cards(learning_rate=0.25)[tags.ARGUMENTS.name].text)
    assert shown["learning_rate"] == 0.25


def test_secrets_of_the_arguments_are_hidden() -> None:
    text = cards(hub_token=TOKEN)[tags.ARGUMENTS.name].text
    assert "hub_token" in text
    assert TOKEN not in text


def test_the_configuration_of_the_model_is_shown() -> None:
    shown = json.loads(cards(BertConfig(hidden_size=48))[tags.MODEL_CONFIG.name].text)
    assert shown["hidden_size"] == 48


def test_a_model_without_a_configuration_has_no_card() -> None:
    assert set(cards()) == {tags.ARGUMENTS.name}


def test_cards_are_written_once_while_they_stay_equal() -> None:
    assert all(card.once for card in cards(BertConfig()).values())
