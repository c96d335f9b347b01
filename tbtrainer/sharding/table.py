"""The parameters that are shown, in order, and for each the part that this rank counts."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from tbtrainer.sharding.adapter import RefusedParameter, Row, UnsupportedTensor
from tbtrainer.sharding.plain import PlainAdapter
from tbtrainer.statistics import why_not_measurable

logger = logging.getLogger(__name__)

_WholeGradient = tuple[int, Tensor]
_AskedGradient = tuple[int, Tensor, Callable[[Tensor], Tensor | None]]


class ParameterTable:
    """The rows of a model's parameters: fixed once, and the same on every rank.

    Args:
        rows: One per parameter shown.
        is_world_process_zero: Whether this rank warns of what is missing on every rank.
        refused: The parameters that have no row, the same on every rank.

    Attributes:
        rows: As given.
        is_world_process_zero: As given.
        refused: As given.
        unread_gradients: The rows whose gradient this rank could not read when `gradients` was last
            called, with the reason.
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
        """The ways of sharding found, such as `"plain"` or `"dtensor+plain"`."""
        return "+".join(sorted({row.adapter.mode for row in self.rows})) or "plain"

    @property
    def needs_reduction(self) -> bool:
        """Whether any tensor lies on more than one rank. Equal on every rank."""
        return any(row.adapter.is_sharded for row in self.rows)

    def select(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> "ParameterTable":
        """Returns the table of some of the parameters, without any communication.

        A warning that one of the two tables has given, the other does not repeat.

        Args:
            include: Regular expressions over clean names; `None` for all parameters.
            exclude: Regular expressions over clean names; they win.
        """

        def matches(name: str, patterns: Iterable[str]) -> bool:
            return any(re.search(pattern, name) for pattern in patterns)

        places = [
            place
            for place, row in enumerate(self.rows)
            if (include is None or matches(row.name, include))
            and not matches(row.name, exclude or ())
        ]
        table = ParameterTable([self.rows[place] for place in places], self.is_world_process_zero)
        table._places = places
        table._warned = self._warned
        return table

    def selected(self, parts: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Chooses this table's rows among the parts of the table it was selected from."""
        return list(parts) if self._places is None else [parts[place] for place in self._places]

    @torch.no_grad()
    def parameters(self) -> list[Tensor | None]:
        """This rank's part of every parameter; `None` also where it cannot be measured."""
        parts: list[Tensor | None] = []
        for row in self.rows:
            try:
                parts.append(row.adapter.part(row.parameter, row.parameter))
            except Exception as error:
                self._warn_of_error("value", row, error)
                parts.append(None)
        return self.measurable("value", parts)

    @torch.no_grad()
    def gradients(self) -> list[Tensor | None]:
        """This rank's part of every gradient, multiplied by the loss scale where there is one.

        A gradient that does not exist is `None`, and so is one that cannot be read; the latter is
        in `unread_gradients`. One gradient's failure on one rank costs that gradient, not the
        rank's share of the others. Sparse and complex gradients are given as they are; see
        `measurable`.
        """
        self.unread_gradients = {}
        whole, asked = self._gradient_plan
        if len(whole) == len(self.rows):
            return [parameter.grad for _, parameter in whole]
        parts: list[Tensor | None] = [None] * len(self.rows)
        for index, parameter in whole:
            parts[index] = parameter.grad
        for index, parameter, gradient_part in asked:
            try:
                parts[index] = gradient_part(parameter)
            except Exception as error:
                self._warn_of_error("gradient", self.rows[index], error)
                self.unread_gradients[index] = str(error) or type(error).__name__
        self._wait_for_copies(parts)
        return parts

    def measurable(self, what: str, parts: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Detaches the parts, and replaces those that have no histogram by `None`, with a warning.

        Args:
            what: `"value"` or `"gradient"`, for the warning.
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
    def _gradient_plan(self) -> tuple[list[_WholeGradient], list[_AskedGradient]]:
        """The parameters whose `.grad` this rank counts, and those whose adapter is asked."""
        whole: list[_WholeGradient] = []
        asked: list[_AskedGradient] = []
        for index, row in enumerate(self.rows):
            if type(row.adapter) is PlainAdapter:
                if row.adapter.counts:
                    whole.append((index, row.parameter))
            elif row.adapter.gradient_problem is None:
                asked.append((index, row.parameter, row.adapter.gradient_part))
        return whole, asked

    @cached_property
    def _copied_from(self) -> dict[int, torch.device]:
        """The accelerators that gradients may be copied from without waiting, by row."""
        return {
            index: row.parameter.device
            for index, row in enumerate(self.rows)
            if row.adapter.copies_gradients and row.parameter.device.type != "cpu"
        }

    def _wait_for_copies(self, parts: Sequence[Tensor | None]) -> None:
        """Waits for gradients that are still being copied from an accelerator to main memory.

        DeepSpeed offloads gradients with copies that it waits for only in `engine.step`, and on
        streams of its own, so the whole device is waited for; once, and only with such gradients.
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
                "The %s of %s is not shown: %s. Other tensors may have the same problem; it is "
                "logged once. Everything else is shown.",
                what,
                row.name,
                reason,
            )
