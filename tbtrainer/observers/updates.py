"""Shows what each optimizer step adds to the parameters: histograms, and two curves per block."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tbtrainer import tags
from tbtrainer.observers.facts import Gradients
from tbtrainer.observers.histograms import Histograms
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.optimizers import steps_in_backward
from tbtrainer.observers.snapshot_records import incomplete_rows
from tbtrainer.observers.training import Training
from tbtrainer.observers.watched_parameters import WatchedParameters
from tbtrainer.records import Deferred, Scalar
from tbtrainer.sharding.parameter_names import block_name
from tbtrainer.statistics import Differences, Snapshot, TensorCopies
from tbtrainer.statistics.devices import moved
from tbtrainer.statistics.norms import TensorNorms

logger = logging.getLogger(__name__)


class Updates(Observer):
    """Shows the differences between the parameters after and before an optimizer step.

    At the steps of the snapshot schedule this rank's parts of the trained parameters are copied
    when the gradients are ready, and the copies are released after the step. At other steps nothing
    is copied. The collectives are those of one snapshot.

    Args:
        histograms: Has measured the parameters after the step, if they are a target.
    """

    def __init__(self, histograms: Histograms) -> None:
        self._histograms = histograms
        # `None` outside of a training, and if updates are not a target.
        self._watched: WatchedParameters | None = None
        # Reads the parameters where `histograms` does not.
        self._norms: TensorNorms | None = None
        self._copied_step = -1
        # The copies, or the error that kept this rank from making them.
        self._copies: TensorCopies | Exception | None = None

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Sets the rows, which are the same on every rank, and allocates the buffers."""
        self.close()
        if not _is_target(training):
            return ()
        if not shows_updates(training):
            if training.is_world_process_zero:
                logger.warning(
                    "Updates are not shown, because %s changes the parameters during the backward "
                    "pass, before they are copied. Everything else is shown.",
                    steps_in_backward(training.optimizer),
                )
            return ()
        reads_parameters = "parameters" not in training.arguments.histogram_targets
        self._watched = WatchedParameters.of(training, ["updates"], sums_beside=reads_parameters)
        self._watched.prepare()
        if reads_parameters:
            device = self._watched.tensors.rows.device
            self._norms = TensorNorms(len(self._watched.table.rows), device)
        training.snapshot_readers.append(update_curves)
        return ()

    def gradients_ready(self, step: int, gradients: Gradients | None) -> tuple[()]:
        """Copies the parameters, if a snapshot is due."""
        watched = self._watched
        if watched is None or not watched.tensors.is_due(step):
            return ()
        # Equal on every rank, also where the copy fails: all reach the collectives of the snapshot.
        self._copied_step, self._copies = step, None
        if watched.tensors.takes_part:
            try:
                self._copies = TensorCopies.of(_trained_parts(watched))
            except Exception as error:
                # Without its traceback, which keeps the copies alive that were made.
                self._copies = error.with_traceback(None)
        return ()

    def step_taken(self, step: int) -> list[Deferred]:
        """Returns histograms and curves, if the parameters were copied before this step.

        A step that was skipped or refused changes nothing: every difference is 0.
        """
        watched, copies = self._watched, self._copies
        self._copies = None
        if watched is None or step != self._copied_step:
            return []

        def differences() -> Differences:
            if not isinstance(copies, TensorCopies):
                raise copies or RuntimeError("the parameters were not copied before the step")
            return Differences(watched.table.parameters(), copies)

        beside = None if self._norms is None else self._own_squares
        snapshot = watched.tensors.take("updates", differences, beside=beside)
        if snapshot is not None:
            snapshot = replace(snapshot, beside=self._squares(step, snapshot))
        return watched.tensors.deferred("updates", step, snapshot)

    def close(self) -> None:
        """Releases the copies, the parameters, and the buffers for collectives."""
        self._watched = self._norms = self._copies = None
        self._copied_step = -1

    def _squares(self, step: int, snapshot: Snapshot) -> Tensor | None:
        """Returns the sum of squares of the parameters of each row, over all ranks."""
        if self._norms is not None:
            return snapshot.beside
        has_measured = self._histograms.parameters_step == step
        return self._histograms.parameter_squares if has_measured else None

    def _own_squares(self) -> Tensor:
        """Returns the sum of squares of this rank's parameters, by row. float64, shape (rows,)."""
        assert self._watched is not None and self._norms is not None
        rows = self._watched.tensors.rows
        norms = torch.zeros(len(rows.row_of), dtype=self._norms.dtype, device=rows.device)
        self._norms.into(norms, self._watched.table.parameters())
        squares = (norms.double() * self._norms.unit).square()
        index = moved(torch.tensor(rows.row_of, dtype=torch.int64, device="cpu"), rows.device)
        out = torch.zeros(len(rows.names), dtype=torch.float64, device=rows.device)
        return out.index_add_(0, index, squares)


def shows_updates(training: Training) -> bool:
    """Returns whether updates are a target of the training, and its optimizer allows to copy."""
    return _is_target(training) and steps_in_backward(training.optimizer) is None


def _is_target(training: Training) -> bool:
    return "updates" in training.arguments.histogram_targets and training.schedule.every > 0


def update_curves(target: str, step: int, snapshot: Snapshot) -> list[Scalar]:
    """Returns the curves of the blocks of which every row is completely measured.

    Args:
        target: What the snapshot shows. There are curves of `"updates"` only.
        step: Optimizer step of the snapshot.
        snapshot: In main memory, of the whole tensors. Its numbers `beside` are the sums of the
            squares of the parameters; without them there is no `update_ratio`.
    """
    if target != "updates":
        return []
    rows, statistics = snapshot.rows, snapshot.statistics
    counts = statistics.count.tolist()
    incomplete = incomplete_rows(snapshot)
    blocks: dict[str, list[int]] = {}
    for row, name in enumerate(rows.names):
        # Frozen parameters are not counted.
        if counts[row] > 0:
            blocks.setdefault(block_name(name), []).append(row)
    curves: list[Scalar] = []
    for block, of_block in blocks.items():
        if any(row in incomplete for row in of_block):
            continue
        unchanged = int(statistics.zeros[of_block].sum()) / sum(counts[row] for row in of_block)
        curves.append(Scalar(tags.UPDATE_UNCHANGED.of(block), unchanged))
        ratio = _ratio(snapshot, of_block)
        if ratio is not None:
            curves.append(Scalar(tags.UPDATE_RATIO.of(block), ratio))
    return curves


def _ratio(snapshot: Snapshot, of_block: Sequence[int]) -> float | None:
    """Returns RMS(update)/RMS(parameter) of some rows; `None` if not all is finite, or all is 0."""
    rows, statistics = snapshot.rows, snapshot.statistics
    if snapshot.beside is None or int(statistics.nonfinite[of_block].sum()) > 0:
        return None
    updated = int(statistics.count[of_block].sum())
    # Parameters that share a row may be frozen in part, and these are not among the updates.
    whole = sum((rows.tensor_counts[row] or 0) * rows.members[row] for row in of_block)
    squares = float(snapshot.beside[of_block].sum())
    if not math.isfinite(squares) or squares <= 0 or whole == 0:
        return None
    mean_square = float(statistics.sum_of_squares[of_block].sum()) / updated
    return math.sqrt(mean_square / (squares / whole))


def _trained_parts(watched: WatchedParameters) -> list[Tensor | None]:
    """Returns this rank's part of each parameter that is not frozen at this moment."""
    rows = zip(watched.table.rows, watched.table.parameters(), strict=True)
    return [part if row.parameter.requires_grad else None for row, part in rows]
