"""The training arguments and the model configuration as text cards."""

from typing import Any

from tbtrainer import tags
from tbtrainer.observers.observer import Observer, Training
from tbtrainer.records import Text
from tbtrainer.redaction import redacted_json


class ArgumentCards(Observer):
    """Shows arguments and configuration under the tags of the stock callback, without secrets."""

    def run_begins(self, step: int, training: Training) -> list[Text]:
        """Returns the cards. The run does not write a card again that it already shows."""
        cards = [_card(tags.ARGUMENTS, training.training_arguments)]
        config = getattr(training.unwrapped_model, "config", None)
        if hasattr(config, "to_dict"):
            cards.append(_card(tags.MODEL_CONFIG, config))
        return cards


def _card(tag: tags.Tag, shown: Any) -> Text:
    return Text(tag.name, redacted_json(shown.to_dict()), once=True)
