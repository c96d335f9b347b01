"""Counts the evaluation batches whose loss is not finite.

`Trainer` of transformers 5.24 leaves them out of `eval_loss` if another batch is finite.
"""

import torch
from torch import Tensor

from tbtrainer import tags
from tbtrainer.observers.facts import Evaluation, EvaluationBatch
from tbtrainer.observers.health_report import HealthReport
from tbtrainer.observers.health_reports import HealthReports
from tbtrainer.observers.observer import Observer
from tbtrainer.records import Records, Scalar
from tbtrainer.sharding import reduce_sum
from tbtrainer.sharding.agreement import collective_device
from tbtrainer.sharding.world import world_size


class EvaluationHealth(Observer):
    """Shows how many batches of an evaluation have a loss that is not finite, on all ranks.

    With several ranks the end of each evaluation is a collective.

    Args:
        reports: Reports an evaluation with such batches.
    """

    def __init__(self, reports: HealthReports) -> None:
        self._reports = reports
        self._batches = 0
        self._nonfinite: Tensor | None = None

    def evaluation_begins(self, step: int, dataset: str | None) -> tuple[()]:
        """Forgets the batches of another evaluation or prediction."""
        self._batches, self._nonfinite = 0, None
        return ()

    def evaluation_batch(self, step: int, batch: EvaluationBatch) -> tuple[()]:
        """Counts on the device, without waiting for it."""
        if batch.loss is not None:
            is_bad = (~batch.loss.isfinite()).any().to(torch.float32)
            self._nonfinite = is_bad if self._nonfinite is None else self._nonfinite + is_bad
            self._batches += 1
        return ()

    def evaluation_ended(self, step: int, evaluation: Evaluation) -> Records:
        """Returns the count, and a report if it is above zero."""
        batches, nonfinite = self._totals()
        if batches == 0:
            return ()  # No labels, or the end of an evaluation of several datasets.
        if evaluation.dataset is None:
            tag = tags.NONFINITE_EVAL_BATCHES.name
        else:
            tag = tags.NONFINITE_EVAL_BATCHES_OF.of(evaluation.dataset)
        report = HealthReport(
            "evaluation", step, dataset=evaluation.dataset, batches=nonfinite, applied=False
        )
        reported = self._reports.reported(report) if nonfinite else ()
        return [Scalar(tag, float(nonfinite)), *reported]

    def _totals(self) -> tuple[int, int]:
        """Returns how many batches all ranks saw, and how many of them were not finite."""
        own = [0, 0]
        try:
            if self._nonfinite is not None:
                own = [self._batches, int(self._nonfinite.item())]
        finally:
            self._batches, self._nonfinite = 0, None
            # A rank that failed still takes part, with no batches.
            if world_size() > 1:
                sent = torch.tensor(own, dtype=torch.int64, device=collective_device())
                reduce_sum(sent)
                own = sent.tolist()
        batches, nonfinite = own
        return batches, nonfinite
