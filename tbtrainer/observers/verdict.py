"""Reports in one line what takes more time than it should, with the figures."""

from dataclasses import dataclass

from tbtrainer.observers.throughput_window import ThroughputWindow

# A window with fewer steps is judged together with the windows after it.
LEAST_STEPS = 10
# A figure is reported from its threshold on, and then until it is below two thirds of it.
DATA_WAIT = 0.15
RANK_EXCESS = 0.25
TELEMETRY = 0.05
LOGGING = 0.15
# A new line is written if a figure has become this many times larger or smaller than reported. In
# short windows figures differ by half without a reason.
CHANGE = 2.0


@dataclass(frozen=True)
class _Finding:
    figure: float
    threshold: float
    text: str


class Verdict:
    """Returns what takes more time than it should, when that changes.

    Args:
        data_loader_workers: `dataloader_num_workers` of the training, for the advice.
    """

    def __init__(self, data_loader_workers: int) -> None:
        self._workers = data_loader_workers
        self._reported: dict[str, float] = {}
        self._windows: list[ThroughputWindow] = []

    def changed(self, window: ThroughputWindow) -> str | None:
        """Returns what is to be reported now, or `None` if it is what was reported last.

        Args:
            window: The steps since the last logging step.

        Returns:
            One line of Markdown. If no cause is left, a line that says so.
        """
        self._windows.append(window)
        if sum(len(each.steps) for each in self._windows) < LEAST_STEPS:
            return None
        windows, self._windows = self._windows, []
        found = {
            name: finding
            for name, finding in _findings(windows, self._workers).items()
            if finding.figure >= finding.threshold * (2 / 3 if name in self._reported else 1)
        }
        before, figures = self._reported, {name: f.figure for name, f in found.items()}
        if before.keys() == figures.keys() and not any(
            not before[name] / CHANGE < figures[name] < before[name] * CHANGE for name in figures
        ):
            return None
        self._reported = figures
        return " ".join(finding.text for finding in found.values()) or (
            "What was reported before no longer holds."
        )


def _findings(windows: list[ThroughputWindow], workers: int) -> dict[str, _Finding]:
    """Returns the figures of some windows together, and what each means."""
    steps = [step for window in windows for step in window.steps]
    training = sum(step.training for step in steps)
    total = sum(window.phases.total for window in windows)
    if training <= 0 or total <= 0:
        return {}
    waiting = sum(step.data for step in steps) / training
    telemetry = sum(window.phases.telemetry for window in windows) / total
    logging = sum(window.phases.logging for window in windows) / total
    return {
        "data": _Finding(
            waiting,
            DATA_WAIT,
            f"**Waiting for data {100 * waiting:.0f} % of the time**: raise "
            f"`dataloader_num_workers` (now {workers}), or prepare the samples before the "
            "training.",
        ),
        # Of the last window: the medians of several windows cannot be combined.
        "rank": _rank_finding(windows[-1], training / len(steps)),
        "telemetry": _Finding(
            telemetry,
            TELEMETRY,
            f"**tbtrainer takes {100 * telemetry:.0f} % of the time**: raise `logging_steps` or "
            "`histogram_steps`.",
        ),
        "logging": _Finding(
            logging,
            LOGGING,
            f"**Logging and callbacks take {100 * logging:.0f} % of the time**: raise "
            "`logging_steps`, or look for a slow callback.",
        ),
    }


def _rank_finding(window: ThroughputWindow, step_seconds: float) -> _Finding:
    slowest, spread = window.slowest_rank, window.rank_spread
    if slowest is None or spread is None:
        return _Finding(0.0, RANK_EXCESS, "")
    rank, median = window.ranks[slowest], window.median_own_seconds
    # The other ranks hardly wait for a rank that is slower by a small part of the step.
    matters = rank.own_seconds - median >= 0.05 * step_seconds
    return _Finding(
        spread - 1 if matters else 0.0,
        RANK_EXCESS,
        f"**Rank {slowest} needs {spread:.1f} times as long as the median rank** for its data and "
        f"its first forward pass, and the others wait for it: {rank.own_seconds:.2g} s against "
        f"{median:.2g} s per step, {rank.data_seconds:.2g} s of it waiting for data.",
    )
