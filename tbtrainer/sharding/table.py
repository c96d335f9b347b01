"""The table of the parameters that are shown, and the part of each that this rank counts."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from tbtrainer.sharding.adapter import RefusedParameter, Row, UnsupportedTensor
from tbtrainer.sharding.parameter_names import has_match
from tbtrainer.sharding.plain import PlainAdapter
from tbtrainer.statistics import why_not_measurable

logger = logging.getLogger(__name__)

_DirectGradient = tuple[int, Tensor]
_AdapterGradient = tuple[int, Tensor, Callable[[Tensor], Tensor | None]]


class ParameterTable:
    """The rows of a model's parameters, fixed when a training begins and equal on every rank.

    Args:
        rows: The rows, one per parameter that is shown.
        is_world_process_zero: Whether this is world rank zero, which logs what every rank knows.
        refused: The parameters that have no row, equal on every rank.

    Attributes:
        rows: The argument of this name.
        is_world_process_zero: The argument of this name.
        refused: The argument of this name.
        unread_gradients: Why this rank could not read a gradient in the last call of `gradients`,
            by row.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        is_world_process_zero: bool = True,
        refused: Sequence[RefusedParameter] = (),
    ) -> None:
        self.rows = list(rows)
        self.refused = list(refused)
        self.unread_gradients: dict[int, str] = {}
        self.is_world_process_zero = is_world_process_zero
        self._places: list[int] | None = None
        self._warned: set[tuple[str, str]] = set()

    @property
    def mode(self) -> str:
        """The sharding modes of the rows, such as `"plain"` or `"dtensor+plain"`."""
        return "+".join(sorted({row.adapter.mode for row in self.rows})) or "plain"

    @property
    def needs_reduction(self) -> bool:
        """Whether ranks hold different parts of some tensor. Equal on every rank."""
        return any(row.adapter.is_sharded for row in self.rows)

    def select(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> "ParameterTable":
        """Returns a table of some of the rows, without communication.

        The two tables share the record of the warnings that were logged.

        Args:
            include: Regular expressions. Rows whose name matches one are kept; `None` keeps all.
            exclude: Regular expressions. Rows whose name matches one are left out, also if
                `include` keeps them.
        """
        places = [
            place
            for place, row in enumerate(self.rows)
            if (include is None or has_match(row.name, include))
            and not has_match(row.name, exclude or ())
        ]
        table = ParameterTable([self.rows[place] for place in places], self.is_world_process_zero)
        table._places = places
        table._warned = self._warned
        return table

    def selected(self, parts: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Returns the parts of this table's rows.

        Args:
            parts: One part per row of the table that this one was selected from.
        """
        return list(parts) if self._places is None else [parts[place] for place in self._places]

    @torch.no_grad()
    def parameters(self) -> list[Tensor | None]:
        """Returns this rank's part of every parameter.

        It is `None` if other ranks count it, or if it cannot be read or measured.
        """
        return self.read("value", lambda row: row.adapter.part(row.parameter, row.parameter))

    @torch.no_grad()
    def read(self, what: str, part_of: Callable[[Row], Tensor | None]) -> list[Tensor | None]:
        """Returns this rank's part of one tensor per row.

        It is `None` if `part_of` returns `None`, or if it cannot be read or measured.

        Args:
            what: What is read, such as `"value"`, for the warning.
            part_of: Returns the part of a row. After an error the other rows are read all the same.
        """
        parts: list[Tensor | None] = []
        for row in self.rows:
            try:
                parts.append(part_of(row))
            except Exception as error:
                self._warn_of_error(what, row, error)
                parts.append(None)
        return self.measurable(what, parts)

    def gradients(self) -> list[Tensor | None]:
        """Returns this rank's part of every gradient, still multiplied by the loss scale.

        A part is `None` if there is no gradient, if other ranks count it, or if it cannot be read.
        In the last case the reason is in `unread_gradients`, and the other gradients are returned
        all the same. Sparse and complex gradients are returned too; `measurable` takes them out.
        """
        self.unread_gradients = {}
        if self._are_all_direct:
            return [parameter.grad for parameter in self._parameters]
        direct, by_adapter = self._gradient_plan
        parts: list[Tensor | None] = [None] * len(self.rows)
        for index, parameter in direct:
            parts[index] = parameter.grad
        with torch.no_grad():
            for index, parameter, gradient_part in by_adapter:
                try:
                    parts[index] = gradient_part(parameter)
                except Exception as error:
                    self._warn_of_error("gradient", self.rows[index], error)
                    self.unread_gradients[index] = str(error) or type(error).__name__
        self._wait_for_copies(parts)
        return parts

    def measurable(self, what: str, parts: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Detaches the parts, and replaces those that cannot be measured by `None`, with a warning.

        Args:
            what: What they are, such as `"value"` or `"gradient"`, for the warning.
            parts: One per row.
        """
        kept: list[Tensor | None] = []
        for row, part in zip(self.rows, parts, strict=True):
            reason = None if part is None else why_not_measurable(part)
            if reason is not None:
                self._warn(what, row, reason)
            kept.append(None if part is None or reason is not None else part.detach())
        return kept

    @cached_property
    def _parameters(self) -> list[Tensor]:
        """The parameters of all rows, in a list without tuples, which takes less time to read."""
        return [row.parameter for row in self.rows]

    @cached_property
    def _are_all_direct(self) -> bool:
        """Whether the gradient of every row is `parameter.grad`."""
        return len(self._gradient_plan[0]) == len(self.rows)

    @cached_property
    def _gradient_plan(self) -> tuple[list[_DirectGradient], list[_AdapterGradient]]:
        """The rows whose gradient is `parameter.grad`, and those whose adapter reads it."""
        direct: list[_DirectGradient] = []
        by_adapter: list[_AdapterGradient] = []
        for index, row in enumerate(self.rows):
            if type(row.adapter) is PlainAdapter:
                if row.adapter.counts:
                    direct.append((index, row.parameter))
            elif row.adapter.gradient_problem is None:
                by_adapter.append((index, row.parameter, row.adapter.gradient_part))
        return direct, by_adapter

    @cached_property
    def _copied_from(self) -> dict[int, torch.device]:
        """The accelerators from which gradients may still be copied to main memory, by row."""
        return {
            index: row.parameter.device
            for index, row in enumerate(self.rows)
            if row.adapter.copies_gradients and row.parameter.device.type != "cpu"
        }

    def _wait_for_copies(self, parts: Sequence[Tensor | None]) -> None:
        """Waits for gradients that are still being copied from an accelerator to main memory.

        DeepSpeed offloads gradients with copies on streams of its own, and waits for them only in
        `engine.step`. The whole device is therefore waited for, once per step, and only if a
        gradient is in main memory while its parameter is on an accelerator.
        """
        for index, source in self._copied_from.items():
            part = parts[index]
            if part is not None and part.device.type == "cpu":
                torch.get_device_module(source).synchronize(source)
                return

    def _warn_of_error(self, what: str, row: Row, error: Exception) -> None:
        if not isinstance(error, UnsupportedTensor):
            self._warn(what, row, f"{type(error).__name__}: {error}")
        elif self.is_world_process_zero:
            self._warn(what, row, str(error))

    def _warn(self, what: str, row: Row, reason: str) -> None:
        if (what, reason) not in self._warned:
            self._warned.add((what, reason))
            logger.warning(
                "The %s of %s is not shown: %s. This is logged once, also if other tensors have "
                "the same problem. Everything else is shown.",
                what,
                row.name,
                reason,
            )
