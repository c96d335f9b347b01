"""`HistogramTarget`: histograms of tensors that an observer of a user's own gives."""

import re
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from tbtrainer.arguments import HISTOGRAM_TARGETS
from tbtrainer.observers.training import Training
from tbtrainer.observers.watched_parameters import WatchedParameters
from tbtrainer.observers.watched_tensors import WatchedTensors
from tbtrainer.records import Deferred
from tbtrainer.sharding import ParameterTable
from tbtrainer.sharding.agreement import Comparison
from tbtrainer.sharding.world import world_size
from tbtrainer.statistics import why_not_measurable

OnRanks = Literal["same", "different"]
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class HistogramTarget:
    """Tensors of an observer's own, shown as the built-in `histogram_targets` are.

    At the steps of the snapshot schedule (`histogram_strategy`, `histogram_steps`) the elements are
    counted on their device, combined over all ranks, and written as `<target>/<name>`. Nothing is
    gathered, and the training does not wait for the device.

    Make one in `run_begins` with `of` or `like_parameters`, on every rank.

    Attributes:
        target: The group of the tags, such as `"attention_entropy"`.
        names: Name of each tensor, equal on every rank.

    Example:
        >>> from tbtrainer import HistogramTarget, Observer
        >>> class Losses(Observer):
        ...     def run_begins(self, step, training):
        ...         self.target = HistogramTarget.of(training, "loss", ["last"], "different")
        ...
        ...     def micro_batch_taken(self, step, loss):
        ...         self.loss = loss
        ...
        ...     def step_taken(self, step):
        ...         return self.target.records(step, lambda: [self.loss])
    """

    def __init__(
        self,
        target: str,
        names: Sequence[str],
        tensors: WatchedTensors,
        table: ParameterTable | None,
        comparison: Comparison | None = None,
    ) -> None:
        self.target = target
        self.names = tuple(names)
        self._tensors = tensors
        self._table = table
        # Compares the names of all ranks at the first snapshot; `None` if they need not be equal.
        self._comparison = comparison
        # `None` before the first snapshot.
        self._is_agreed: bool | None = None

    @classmethod
    def of(
        cls, training: Training, target: str, names: Sequence[str], on_ranks: OnRanks
    ) -> "HistogramTarget":
        """Returns a target with one tensor per name.

        Args:
            training: As `run_begins` got it.
            target: The group of the tags: letters, digits, `_`, `-` and `.`.
            names: Name of each tensor, the same list on every rank. Tensors of the same name are
                counted together.
            on_ranks: `"different"`: each rank has elements of its own, such as those of its batch,
                and all of them are counted. `"same"`: every rank has the same tensors, and those of
                world rank zero are counted.

        Raises:
            ValueError: `target` is no such name, or that of a built-in target; there are no names;
                or `on_ranks` has another value.
        """
        _check(target, names)
        if on_ranks not in ("same", "different"):
            raise ValueError(f'on_ranks={on_ranks!r} is not allowed; use "same" or "different".')
        is_sharded = on_ranks == "different" and world_size() > 1
        counts = [None] * len(names)
        tensors = WatchedTensors.of(training, [target], names, counts, is_sharded)
        tensors.prepare({torch.float32})
        comparison = Comparison((target, list(names))) if is_sharded else None
        return cls(target, names, tensors, None, comparison)

    @classmethod
    def like_parameters(cls, training: Training, target: str) -> "HistogramTarget":
        """Returns a target with one tensor per parameter, each divided over ranks as it is.

        Such tensors are a moving average of the parameters, or masks. `names` has the parameters
        that `histogram_include` and `histogram_exclude` choose. Give each tensor as this rank holds
        the parameter: of the same shape and, for a `DTensor`, on the same mesh. The elements are
        counted once, in every sharding mode.

        Args:
            training: As `run_begins` got it.
            target: See `of`.

        Raises:
            ValueError: See `of`.
        """
        watched = WatchedParameters.of(training, [target])
        names = [row.name for row in watched.table.rows]
        _check(target, names)
        watched.prepare()
        return cls(target, names, watched.tensors, watched.table)

    def is_due(self, step: int) -> bool:
        """Returns whether a snapshot is due at a step: the same on every rank."""
        return self._tensors.is_due(step)

    def records(self, step: int, tensors: Callable[[], Sequence[Tensor | None]]) -> list[Deferred]:
        """Returns the histograms at a step, for the observer to return; none if none is due.

        With `"different"`, or if parameters are sharded, this is a collective: every rank calls it
        at the same moments, and at most once per step.

        Args:
            step: The step that the moment was called with.
            tensors: Returns this rank's tensors, one per name; `None` for one that it does not
                have. Floating-point or integer, of any shape. Called only if a snapshot is due. If
                it raises an error, the rank still takes part in the collectives.

        Raises:
            Exception: The error of `tensors`, after the collectives.
            ValueError: There are not as many tensors as names, or one cannot be measured. Or the
                names differ between ranks, which is found in one more collective at the first
                snapshot. Every rank raises it then, and no collective follows.
        """
        if not self.is_due(step):
            return []
        if self._is_agreed is None:
            self._is_agreed = self._comparison is None or self._comparison.is_same()
        if not self._is_agreed:
            raise ValueError(
                f"the target {self.target!r} is not shown, because its names differ between ranks; "
                "give the same names on every rank, and None for a tensor that a rank lacks."
            )
        snapshot = self._tensors.take(self.target, lambda: self._parts(tensors()))
        return self._tensors.deferred(self.target, step, snapshot)

    def _parts(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        if len(tensors) != len(self.names):
            raise ValueError(
                f"the target {self.target!r} has {len(self.names)} names, but {len(tensors)} "
                "tensors were given; give one per name, or None."
            )
        parts = list(tensors)
        if self._table is not None:
            rows = zip(self._table.rows, tensors, strict=True)
            parts = [None if t is None else row.adapter.part(row.parameter, t) for row, t in rows]
        for name, part in zip(self.names, parts, strict=True):
            reason = None if part is None else why_not_measurable(part)
            if reason is not None:
                raise ValueError(f"{self.target}/{name} cannot be shown: {reason}")
        return [None if part is None else part.detach() for part in parts]


def _check(target: str, names: Sequence[str]) -> None:
    if not isinstance(target, str) or _NAME.fullmatch(target) is None:
        raise ValueError(
            f"target={target!r} is not a plain name; use letters, digits, '_', '-' and '.', "
            "such as 'attention_entropy'."
        )
    if target in HISTOGRAM_TARGETS:
        raise ValueError(
            f"target={target!r} is a built-in target; name it in histogram_targets, or choose "
            "another name."
        )
    if isinstance(names, str) or not names:
        raise ValueError(f"names={names!r} has no name of a tensor; give a list of names.")
