"""The observers that every trainer has."""

from transformers import TrainingArguments

from tbtrainer.isolation import Isolation
from tbtrainer.observers.arguments import ArgumentCards
from tbtrainer.observers.checkpoints import Checkpoints
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.gradient_norm_curves import GradientNormCurves
from tbtrainer.observers.histograms import Histograms
from tbtrainer.observers.log_entries import LogEntries
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.overhead_fraction import OverheadFraction
from tbtrainer.observers.record_counters import RecordCounters
from tbtrainer.run import RunSession


def built_in_observers(
    arguments: TrainingArguments, run: RunSession, clock: Clock, isolation: Isolation
) -> list[Observer]:
    """Returns the observers in the order in which they are called at each moment.

    The order matters at a logging step: `RecordCounters` counts what the observers before it have
    shown, and `OverheadFraction` ends the window of the clock, so it comes last. Observers that a
    user adds come after it; their time at a logging step is counted in the next window.

    Args:
        arguments: The trainer's arguments.
        run: The run whose records are counted.
        clock: Measures what all observers cost.
        isolation: What happens to an error in a measurement.
    """
    return [
        ArgumentCards(arguments),
        LogEntries(),
        GradientNormCurves(isolation),
        Histograms(),
        Checkpoints(),
        RecordCounters(lambda: run.writer.counters),
        OverheadFraction(clock),
    ]
