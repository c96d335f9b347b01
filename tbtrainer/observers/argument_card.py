"""The training arguments as tables: what differs from the defaults first, then by topic."""

from collections.abc import Iterable

from tbtrainer import tags
from tbtrainer.observers.argument_topics import TOPICS, Argument, arguments_of
from tbtrainer.observers.card_tables import code, sections, value_cell
from tbtrainer.observers.observer import Observer, Training
from tbtrainer.panels.markdown import table
from tbtrainer.records import Text


class ArgumentTables(Observer):
    """Shows the training arguments as tables, without secrets."""

    def run_begins(self, step: int, training: Training) -> list[Text]:
        """Returns the card. The run does not write it again while nothing has changed."""
        if not training.is_world_process_zero:
            return []
        found = arguments_of(training.training_arguments, training.arguments)
        return [Text(tags.RUN_ARGUMENTS.name, argument_card(found), once=True)]


def argument_card(arguments: Iterable[Argument]) -> str:
    """Returns arguments as Markdown: those that differ from the defaults, then all by topic."""
    found = list(arguments)
    changed = [argument for argument in found if not argument.is_default]
    rows = [[code(a.name), value_cell(a.value, a.name), _default_cell(a)] for a in changed]
    by_topic = (
        table((topic, "value"), [[code(a.name), value_cell(a.value, a.name)] for a in of_topic])
        for topic in TOPICS
        if (of_topic := [argument for argument in found if argument.topic == topic])
    )
    first = table(("Differs from the default", "value", "default"), rows) if rows else ""
    return sections([first, *by_topic])


def _default_cell(argument: Argument) -> str:
    return value_cell(argument.default, argument.name)
