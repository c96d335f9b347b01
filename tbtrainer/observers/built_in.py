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
    """Returns the observers in the order in which they are asked.

    Args:
        arguments: Of the trainer.
        run: Whose records are counted.
        clock: Measures what observers cost. The observer that shows it is the last.
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
