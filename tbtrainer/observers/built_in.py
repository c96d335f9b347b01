"""The observers that every trainer has."""

from tbtrainer.isolation import Isolation
from tbtrainer.observers.activations import Activations
from tbtrainer.observers.argument_card import ArgumentTables
from tbtrainer.observers.arguments import ArgumentCards
from tbtrainer.observers.best_metric import BestMetric
from tbtrainer.observers.block_history import BlockHistory
from tbtrainer.observers.checkpoints import Checkpoints
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.custom_scalars import CustomScalars
from tbtrainer.observers.environment_card import EnvironmentCard
from tbtrainer.observers.evaluation_health import EvaluationHealth
from tbtrainer.observers.evaluation_panels import EvaluationPanels
from tbtrainer.observers.gradient_norm_curves import GradientNormCurves
from tbtrainer.observers.health_counts import HealthCounts
from tbtrainer.observers.health_reports import HealthReports
from tbtrainer.observers.histograms import Histograms
from tbtrainer.observers.hparams import HParams
from tbtrainer.observers.learning_rates import LearningRates
from tbtrainer.observers.log_entries import LogEntries
from tbtrainer.observers.memory import Memory
from tbtrainer.observers.model_card import ModelCard
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.optimizer_state import OptimizerState
from tbtrainer.observers.overhead_fraction import OverheadFraction
from tbtrainer.observers.record_counters import RecordCounters
from tbtrainer.observers.spike_scores import SpikeScores
from tbtrainer.observers.step_measurements import StepMeasurements
from tbtrainer.observers.step_times import StepMarks, StepTimes, TelemetryMarks
from tbtrainer.observers.throughput import Throughput
from tbtrainer.observers.updates import Updates
from tbtrainer.run import RunSession


def built_in_observers(
    run: RunSession,
    clock: Clock,
    measurements: StepMeasurements,
    reports: HealthReports,
    rates: LearningRates,
    panels: EvaluationPanels,
    entries: LogEntries,
    best: BestMetric,
    hparams: HParams,
    isolation: Isolation,
) -> list[Observer]:
    """Returns the observers in the order in which they are called at each moment.

    The order matters for these:

    - `StepMarks` comes first and `TelemetryMarks` after the others, so that their work is in no
      phase of the step.
    - At a logging step `RecordCounters` comes before all that write records, so that records of
      this step do not count as waiting. `Throughput` follows, so that its window ends before the
      work of the others.
    - `Updates` follows `Histograms`, whose sums of the parameters it uses.
    - `BlockHistory` follows all that take snapshots, so that its last picture, at the end of the
      run, shows theirs.
    - `measurements` comes before the observers that show what it has read.
    - `CustomScalars` follows `SpikeScores`, whose chart it adds once there are scores. It remembers
      the metrics of an evaluation before `hparams` shows them.
    - `OverheadFraction` ends the window of the clock, so it comes last. Observers that a user adds
      come after it. Their time at a logging step is counted in the next window.

    Args:
        run: The run that is written to.
        clock: Measures what all observers cost.
        measurements: Measures the steps.
        reports: Reports what is not finite.
        rates: Shows the learning rates. The reports ask it for those of a step.
        panels: Shows what evaluations get right and wrong.
        entries: Shows what `Trainer` logs.
        best: Shows the best evaluation so far.
        hparams: Shows the hyper-parameters, with the metrics of evaluations.
        isolation: What happens to an error outside of the methods of an observer, as in a hook.
    """
    times = StepTimes(clock)
    histograms, scores = Histograms(), SpikeScores(measurements)
    return [
        StepMarks(times),
        RecordCounters(run),
        Throughput(times, clock),
        ArgumentCards(),
        ArgumentTables(),
        ModelCard(),
        EnvironmentCard(),
        entries,
        measurements,
        GradientNormCurves(measurements),
        HealthCounts(measurements),
        scores,
        reports,
        EvaluationHealth(reports),
        panels,
        best,
        histograms,
        Updates(histograms),
        OptimizerState(),
        Activations(clock, isolation),
        BlockHistory(run, isolation),
        rates,
        Memory(),
        Checkpoints(),
        CustomScalars(hparams.metrics, lambda: scores.is_known),
        hparams,
        TelemetryMarks(times),
        OverheadFraction(clock),
    ]
