"""Reports the first step whose loss or gradients were not finite, and the steps before it."""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tbtrainer import tags
from tbtrainer.observers.damaged_weights import damaged_weights
from tbtrainer.observers.facts import Gradients, Refusal
from tbtrainer.observers.health_report import Cause, HealthReport, HistoryStep
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.step_facts import StepFacts, StepNorms, StepsReading
from tbtrainer.observers.step_measurements import StepMeasurements
from tbtrainer.observers.training import Training
from tbtrainer.records import JsonLine, Records, Text
from tbtrainer.sharding.world import own_rank, world_size

logger = logging.getLogger(__name__)

HEALTH_FILE = "health.jsonl"
# Reports of one run, resumed or not.
MOST_REPORTS = 20
_HISTORY_STEPS = 16


class HealthReports(Observer):
    """Writes a card, a line of `health.jsonl` and a warning when a step was not finite.

    Each cause is reported once. With `nonfinite_action="log"` a report is made when the steps are
    read: at the next logging step, before a checkpoint, or when the run ends. Where tensors are
    sharded, each of these is a collective.

    Args:
        measurements: Measures the steps.
        rates_at: Returns the learning rates at a step, by parameter group; empty if not known.

    Attributes:
        latest: The last report that was made; `None` before the first one, and on ranks that do not
            write.
    """

    def __init__(
        self, measurements: StepMeasurements, rates_at: Callable[[int], Mapping[str, float]]
    ) -> None:
        self.latest: HealthReport | None = None
        self._measurements = measurements
        self._rates_at = rates_at
        self._training: Training | None = None
        # The weights that were damaged before the first step, and the step that damaged some.
        self._damaged_before: tuple[str, ...] = ()
        self._has_checked = False
        self._damaged_since: int | None = None
        # The last good steps of earlier readings, and the norms of some of them.
        self._good_steps: deque[StepFacts] = deque(maxlen=_HISTORY_STEPS)
        self._norms: deque[StepNorms] = deque(maxlen=_HISTORY_STEPS)
        self._reported: set[object] = set()
        self._reports = 0
        self._suppressed = 0

    # ---- The moments ----

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Forgets an earlier training."""
        self._training, self.latest = training, None
        self._good_steps.clear()
        self._norms.clear()
        self._reported.clear()
        self._reports = self._suppressed = 0
        self._damaged_since = None
        self._damaged_before, self._has_checked = (), False
        return ()

    def gradients_ready(self, step: int, gradients: Gradients | None) -> tuple[()]:
        """Checks before the first optimizer step whether weights are damaged already.

        Not when the run begins: a rank that cannot describe the training is not called then, and
        would be missing in the collective.
        """
        if not self._has_checked and self._training is not None:
            self._has_checked = True
            training = self._training
            self._damaged_before = damaged_weights(training.parameters, training.device) or ()
        return ()

    def logging_step(self, step: int) -> Records:
        """Reports the first bad step since the last reading."""
        return self._report()

    def checkpoint_begins(self, step: int) -> Records:
        """Reports it before a checkpoint is saved, because its weights may be damaged."""
        return self._report()

    def run_ends(self, step: int) -> Records:
        """Reports the steps after the last logging step, and how many were not reported."""
        records = [*self._report()]
        if self._suppressed and own_rank() == 0:
            logger.warning(
                "At %d more step(s) of this training the loss or a gradient was not finite. They "
                "have no report, because their causes were reported before or the run has %d "
                "reports.",
                self._suppressed,
                MOST_REPORTS,
            )
        return records

    def step_refused(self, step: int, refusal: Refusal) -> Records:
        """Reports a step that is refused."""
        return self._report(refusal)

    def state(self) -> dict[str, Any]:
        """Returns how many reports the run has."""
        return {"reports": self._reports}

    def load_state(self, state: Any) -> None:
        """Continues the number of reports."""
        reports = state.get("reports") if isinstance(state, Mapping) else None
        if not isinstance(reports, int) or reports < 0:
            raise ValueError("the state of the health reports has no valid number of reports")
        self._reports = min(reports, MOST_REPORTS)

    def close(self) -> None:
        """Releases the model."""
        self._training = None

    # ---- A report ----

    def reported(self, report: HealthReport) -> Records:
        """Returns the records of a report, and logs it; nothing if its cause was reported.

        World rank zero alone logs and returns records.
        """
        if own_rank() != 0:
            return ()
        cause = _key(report)
        is_known = cause in self._reported or self._reports >= MOST_REPORTS
        # The report that ends a training is always made.
        if is_known and report.action is None:
            # `_suppressed` counts steps, and an evaluation is none.
            self._suppressed += report.cause != "evaluation"
            return ()
        self._reported.add(cause)
        if report.damaged_weights:
            # Later steps are bad because of these weights, so they are not another cause.
            self._reported.add("weights")
        self._reports += 1
        if report.cause != "evaluation":
            self._suppressed = 0
        self.latest = report
        logger.warning("%s", report.message)
        return [
            Text(tags.HEALTH_REPORT.name, report.card()),
            JsonLine(HEALTH_FILE, report.values()),
        ]

    def _report(self, refusal: Refusal | None = None) -> Records:
        """Returns the records about the steps that were just read."""
        if self._training is None:
            return ()
        latest = self._measurements.latest
        bad = None if latest is None else latest.first_bad
        # Where tensors are sharded this is a collective, so it comes before what may differ between
        # ranks.
        damaged = damaged_weights(
            self._training.parameters, self._training.device, is_wanted=bad is not None
        )
        if latest is None:
            return ()
        records: Records = ()
        if bad is not None:
            records = self.reported(self._made(latest, bad, damaged or (), refusal))
            self._suppressed += sum(facts.is_bad for facts in latest.steps) - 1
        self._good_steps.extend(facts for facts in latest.steps if not facts.is_bad)
        self._norms.extend(latest.last_norms)
        return records

    def _made(
        self,
        latest: StepsReading,
        bad: StepFacts,
        damaged: tuple[str, ...],
        refusal: Refusal | None,
    ) -> HealthReport:
        assert self._training is not None
        rows = self._training.parameters.rows
        norms = next((n.norms for n in latest.last_norms if n.step == bad.step), np.array([]))
        places = np.flatnonzero(~np.isfinite(norms)).tolist()
        applied = refusal is None and not bad.was_skipped
        was_damaged = bool(self._damaged_before) or self._damaged_since is not None
        if damaged and self._damaged_since is None:
            # A refused step changed nothing, so at the latest the step before it did.
            was_damaged |= refusal is not None
            self._damaged_since = bad.step - 1 if refusal else _damaging_step(latest, bad)
        since = 0 if self._damaged_before else self._damaged_since
        return HealthReport(
            cause=_cause(bad, was_damaged),
            bad_step=bad.step,
            loss=bad.loss,
            loss_rank=bad.loss_rank,
            learning_rates=dict(self._rates_at(bad.step)),
            bad_gradients=tuple(rows[place].name for place in places),
            damaged_weights=self._damaged_before or damaged,
            damaged_since=since if self._damaged_before or damaged else None,
            applied=applied,
            action=None if refusal is None else refusal.action,
            first_module=None if refusal is None else refusal.first_module,
            checked_forward=refusal is not None and refusal.checked_forward,
            history=self._history(latest, bad, places[-1] if places else None),
            suppressed=self._suppressed,
            ranks=world_size(),
        )

    def _history(
        self, latest: StepsReading, bad: StepFacts, place: int | None
    ) -> tuple[HistoryStep, ...]:
        """Returns the good steps before the bad one.

        Args:
            latest: The steps that were just read.
            bad: The bad step.
            place: The row whose norms are shown; `None` for no row.
        """
        before = [f for f in latest.steps if f.step < bad.step and not f.is_bad]
        norms = {n.step: n.norms for n in (*self._norms, *latest.last_norms)}
        return tuple(
            HistoryStep(
                facts.step,
                facts.loss,
                facts.grad_norm,
                float(norms[facts.step][place])
                if place is not None and facts.step in norms
                else None,
            )
            for facts in [*self._good_steps, *before][-_HISTORY_STEPS:]
        )


def _damaging_step(latest: StepsReading, bad: StepFacts) -> int:
    """Returns the first step that applied bad gradients; the first bad step if there is none."""
    applied = (f.step for f in latest.steps if f.has_bad_gradient and not f.was_skipped)
    return next(applied, bad.step)


def _cause(bad: StepFacts, was_damaged: bool) -> Cause:
    if was_damaged:
        return "weights"
    if bad.has_bad_loss:
        return "loss"
    is_too_small = bad.was_skipped and bad.loss_scale is not None and bad.loss_scale < 1
    return "loss_scale" if is_too_small and bad.looks_overflowed else "backward"


def _key(report: HealthReport) -> object:
    """Returns a key that is equal for reports of the same cause in the same place."""
    if report.cause in ("weights", "loss_scale"):
        return report.cause
    return report.cause, report.loss_rank, report.nearest_to_loss, report.dataset
