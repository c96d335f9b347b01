"""What a run says about itself in its text cards: its model, its arguments, its environment.

A run of a stock `Trainer` has only the cards `args` and `model_config`. Others have none.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tbtrainer import tags
from tbtrainer.command_line.card_tables import card_tables
from tbtrainer.command_line.terminal_text import printable
from tbtrainer.reading import Record
from tbtrainer.redaction import redacted

# The cards that are read. The latest one of each counts.
CARDS = (
    tags.RUN_MODEL.name,
    tags.RUN_ARGUMENTS.name,
    tags.RUN_ENVIRONMENT.name,
    tags.ARGUMENTS.name,
    tags.MODEL_CONFIG.name,
    tags.VERDICT.name,
)
# A longer card is not read.
_MOST_CHARACTERS = 2**20
# The most characters of one value.
_LONGEST = 300


@dataclass(frozen=True)
class RunFacts:
    """What a run says about itself. All texts are printable and without secrets.

    Attributes:
        model: Facts about the model, by name, such as "class"; empty if unknown.
        changed_arguments: Arguments that differ from the defaults, as (value, default) by name;
            `None` if the run does not say which do.
        arguments: The training arguments by name, as JSON texts; empty if unknown.
        environment: Facts about the environment, by name; empty if unknown.
        verdict: What takes more time than it should; `None` if the run does not say.
    """

    model: Mapping[str, str] = field(default_factory=dict)
    changed_arguments: Mapping[str, tuple[str, str]] | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    verdict: str | None = None


def card_of(tag: str) -> str:
    """Returns a card's own tag. `SummaryWriter.add_text` writes another one.

    Example:
        >>> card_of("run/model/text_summary")
        'run/model'
    """
    return tag.removesuffix("/text_summary")


def latest_cards(records: Iterable[Record]) -> dict[str, str]:
    """Returns the latest text of each of `CARDS` among some records, by the card's own tag."""
    return {
        card_of(record.tag): record.value
        for record in records
        if isinstance(record.value, str) and len(record.value) <= _MOST_CHARACTERS
    }


def facts_of(cards: Mapping[str, str], hparams: Mapping[str, Any]) -> RunFacts:
    """Returns what the cards of a run say.

    Args:
        cards: The latest text of each card, by tag. Any program may have written it.
        hparams: The hyper-parameters of the run. They stand for the arguments of a run that has no
            card of them.
    """
    arguments = _mapping(cards.get(tags.ARGUMENTS.name)) or redacted(dict(hparams))
    verdict = cards.get(tags.VERDICT.name)
    config = _mapping(cards.get(tags.MODEL_CONFIG.name))
    return RunFacts(
        model=_facts(cards.get(tags.RUN_MODEL.name, "")) or _facts_of_config(config),
        changed_arguments=_changed(cards.get(tags.RUN_ARGUMENTS.name)),
        arguments={printable(name): _shown(json.dumps(value)) for name, value in arguments.items()},
        environment=_facts(cards.get(tags.RUN_ENVIRONMENT.name, "")),
        verdict=None if verdict is None else _shown(verdict.replace("**", "").replace("`", "")),
    )


def _facts(card: str) -> dict[str, str]:
    """Returns the rows of the tables with two columns."""
    return {
        _shown(name): _shown(value)
        for table in card_tables(card)
        if len(table.header) == 2
        for name, value in table.rows
    }


def _changed(card: str | None) -> dict[str, tuple[str, str]] | None:
    if card is None:
        return None
    return {
        _shown(name): (_shown(value), _shown(default))
        for table in card_tables(card)
        if len(table.header) == 3
        for name, value, default in table.rows
    }


def _facts_of_config(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the configuration of a model says, under the names of the card `run/model`."""
    classes = config.get("architectures")
    named = {
        "class": classes[0] if isinstance(classes, list) and classes else None,
        "name": config.get("_name_or_path"),
        "type": config.get("model_type"),
    }
    return {
        name: _shown(value) for name, value in named.items() if value and isinstance(value, str)
    }


def _mapping(card: str | None) -> dict[str, Any]:
    """Returns a card of JSON without its secrets; empty if it is something else."""
    try:
        found = redacted(json.loads(card or "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _shown(text: str) -> str:
    line = printable(" ".join(str(redacted(text)).split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
