"""All parameters of a model, in order, and for each the part that this rank counts."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tbtrainer.sharding.adapter import NotServed, Row, ShardAdapter
from tbtrainer.sharding.agreement import agreed_reasons
from tbtrainer.sharding.deepspeed import deepspeed_adapters
from tbtrainer.sharding.dtensor import dtensor_adapters
from tbtrainer.sharding.fsdp1 import fsdp1_adapters
from tbtrainer.sharding.parameter_names import clean_name
from tbtrainer.sharding.plain import PlainAdapter
from tbtrainer.statistics import why_not_measurable

logger = logging.getLogger(__name__)


class ParameterTable:
    """The rows of a model's parameters: fixed once, and the same on every rank.

    Args:
        rows: One per parameter shown.
        is_world_process_zero: Whether this rank says what is missing on every rank.
        group: The ranks whose parts make the whole; `None` for all.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        is_world_process_zero: bool = True,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.rows = list(rows)
        self.group = group
        self._is_world_process_zero = is_world_process_zero
        self._refused: set[tuple[str, str]] = set()

    @property
    def mode(self) -> str:
        """The ways of sharding found, such as `"plain"` or `"dtensor+plain"`."""
        return "+".join(sorted({row.adapter.mode for row in self.rows})) or "plain"

    @property
    def needs_reduction(self) -> bool:
        """Whether any tensor lies on more than one rank. Equal on every rank."""
        return any(row.adapter.mode != "plain" for row in self.rows)

    def select(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> "ParameterTable":
        """Returns the table of some of the parameters, without any communication.

        What one of the two tables has warned of, the other does not repeat.

        Args:
            include: Regular expressions over clean names; `None` for all parameters.
            exclude: Regular expressions over clean names; they win.
        """

        def matches(name: str, patterns: Iterable[str]) -> bool:
            return any(re.search(pattern, name) for pattern in patterns)

        chosen = [
            row
            for row in self.rows
            if (include is None or matches(row.name, include))
            and not matches(row.name, exclude or ())
        ]
        table = ParameterTable(chosen, self._is_world_process_zero, self.group)
        table._refused = self._refused
        return table

    @torch.no_grad()
    def parameters(self) -> list[Tensor | None]:
        """This rank's part of every parameter."""
        return [self._readable("value", row, row.adapter.parameter_part) for row in self.rows]

    @torch.no_grad()
    def gradients(self) -> list[Tensor | None]:
        """This rank's part of every gradient, multiplied by the loss scale where there is one."""
        return [self._readable("gradient", row, row.adapter.gradient_part) for row in self.rows]

    def _readable(
        self, what: str, row: Row, part_of: Callable[[Tensor], Tensor | None]
    ) -> Tensor | None:
        """The part, or `None` with one warning where it cannot be read.

        One tensor's failure on one rank costs that tensor, not the rank's share of the others:
        the other ranks wait for it in a collective.
        """
        try:
            part = part_of(row.parameter)
            reason = None if part is None else why_not_measurable(part)
            if reason is None:
                return part
            self._refuse(what, row, reason)
        except NotServed as error:
            if self._is_world_process_zero:
                self._refuse(what, row, str(error))
        except Exception as error:
            self._refuse(what, row, f"{type(error).__name__}: {error}")
        return None

    def _refuse(self, what: str, row: Row, reason: str) -> None:
        if (what, reason) not in self._refused:
            self._refused.add((what, reason))
            logger.warning(
                "The %s of %s is not shown: %s. This is said once, though others may have the same "
                "cause; everything else is shown.",
                what,
                row.name,
                reason,
            )


def parameter_table(
    model: nn.Module,
    *,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    is_world_process_zero: bool,
) -> ParameterTable:
    """Lists the parameters of a model that are shown.

    With several processes every rank calls this at the same time: they agree, in two small
    collectives, on the rows. What a rank cannot serve is left out on all of them, and world rank
    zero says so once.

    Args:
        model: The model as it is trained, wrapped and sharded.
        include: Regular expressions over clean names; `None` for all parameters.
        exclude: Regular expressions over clean names; they win.
        is_world_process_zero: Whether this is world rank zero.

    Returns:
        The table, with the same rows in the same order on every rank. Tied parameters are one row.
    """
    rows: list[Row] = []
    reasons: list[str | None] = []
    error = None
    try:
        adapters: list[ShardAdapter] = [
            *deepspeed_adapters(model, is_world_process_zero),
            *dtensor_adapters(model),
            *fsdp1_adapters(model),
            PlainAdapter(is_world_process_zero),
        ]
        quantised = _quantised_by_bitsandbytes(model)
        for raw_name, parameter in model.named_parameters():
            adapter = next(a for a in adapters if a.serves(parameter))
            reason = adapter.why_not_served(parameter)
            if id(parameter) in quantised:
                reason = "bitsandbytes keeps them quantised"
            count = adapter.global_count(parameter) if reason is None else 0
            rows.append(Row(clean_name(raw_name), parameter, count, adapter))
            reasons.append(reason)
    except Exception as caught:
        error = caught
    shown = agreed_reasons(rows, reasons, error)
    if is_world_process_zero:
        _warn_of_missing(rows, shown)
    kept = [row for row, reason in zip(rows, shown, strict=True) if reason is None]
    return ParameterTable(kept, is_world_process_zero).select(include, exclude)


def breaches(table: ParameterTable, counts: Tensor) -> list[tuple[int, str]]:
    """Checks that every element was counted once.

    Args:
        table: The table the counts belong to.
        counts: Elements counted by all ranks together, int64, shape (rows,).

    Returns:
        Row and description of every tensor whose count is neither 0 nor its size.
    """
    return [
        (
            index,
            f"{row.name} ({row.adapter.mode}) has {row.global_count:,} elements, "
            f"{count:,} were counted",
        )
        for index, (row, count) in enumerate(zip(table.rows, counts.tolist(), strict=True))
        if count not in (0, row.global_count)
    ]


def _quantised_by_bitsandbytes(model: nn.Module) -> set[int]:
    """Identities of weights whose bytes are packed, whatever dtype and type they have.

    For FSDP they are stored as floating-point numbers (`bnb_4bit_quant_storage`) that mean nothing.
    """
    return {
        id(module.weight)
        for module in model.modules()
        if type(module).__name__ in ("Linear4bit", "Linear8bitLt", "LinearFP4", "LinearNF4")
        and isinstance(getattr(module, "weight", None), Tensor)
    }


def _warn_of_missing(rows: Sequence[Row], reasons: Sequence[str | None]) -> None:
    """Says once per reason what is left out."""
    names: dict[str, list[str]] = {}
    for row, reason in zip(rows, reasons, strict=True):
        if reason is not None:
            names.setdefault(reason, []).append(row.name)
    for reason, left_out in names.items():
        logger.warning(
            "%d of %d parameters are not shown: %s. Among them: %s.",
            len(left_out),
            len(rows),
            reason,
            ", ".join(left_out[:3]),
        )
