"""The states of an optimizer that are divided like the parameters, and their names on all ranks."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tbtrainer.sharding.adapter import Row, UnsupportedTensor, unsupported_tensor_type
from tbtrainer.sharding.agreement import collective_device
from tbtrainer.sharding.table import ParameterTable
from tbtrainer.sharding.world import world_size

logger = logging.getLogger(__name__)

# What a rank sends of the names, in bytes. It is the same on every rank, whatever the names are.
_SENT_BYTES = 4096
# Optimizers have one to four states. Each has its own snapshot.
MOST_STATES = 16
_ONE_NUMBER = "they are one number per parameter"


@dataclass(frozen=True)
class StateNames:
    """The names of an optimizer's states.

    Attributes:
        shown: Those that are divided like a parameter, sorted.
        left_out: Why others are not shown, by name. A name may be in both: an 8-bit optimizer keeps
            the states of small parameters in float32.
    """

    shown: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_all(cls, found: Iterable["StateNames"]) -> "StateNames":
        """Returns the names of several ranks together."""
        shown: set[str] = set()
        left_out: dict[str, str] = {}
        for names in found:
            shown.update(names.shown)
            left_out.update(names.left_out)
        return cls(tuple(sorted(shown)[:MOST_STATES]), left_out)

    @property
    def problems(self) -> dict[str, list[str]]:
        """The names of the states that are left out and are more than one number, by reason."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in sorted(self.left_out.items()):
            if reason != _ONE_NUMBER:
                by_reason.setdefault(reason, []).append(name)
        return by_reason


class OptimizerStates:
    """Reads the floating-point states of an optimizer that are divided like the parameters.

    Args:
        table: The parameters.
        optimizer: The optimizer without accelerate's wrapper.
    """

    def __init__(self, table: ParameterTable, optimizer: Any) -> None:
        self._table = table
        self._optimizer = optimizer

    def names(self) -> StateNames:
        """Returns the names of the states that this rank holds now. Does not communicate."""
        shown: set[str] = set()
        left_out: dict[str, str] = {}
        for row in self._table.rows:
            try:
                states = row.adapter.optimizer_states(row.parameter, self._optimizer)
            except UnsupportedTensor as error:
                left_out["those of some parameters"] = str(error)
                continue
            for name, state in states.items():
                if not isinstance(state, Tensor):
                    continue
                try:
                    _part(row, state)
                except UnsupportedTensor as error:
                    left_out[str(name)] = str(error)
                    continue
                # A number that a parameter of one element has may as well be its step.
                if row.global_count != 1:
                    shown.add(str(name))
        return StateNames.of_all([StateNames(tuple(shown), left_out)])

    def parts(self, name: str) -> list[Tensor | None]:
        """Returns this rank's part of one state of every parameter.

        A part is `None` if the parameter has no such state, if it is left out, if other ranks count
        it, or if it cannot be read or measured.

        Args:
            name: Name of the state, such as `"exp_avg"`.
        """

        def part_of(row: Row) -> Tensor | None:
            try:
                state = row.adapter.optimizer_states(row.parameter, self._optimizer).get(name)
                return _part(row, state) if isinstance(state, Tensor) else None
            except UnsupportedTensor:  # Reported with the names.
                return None

        return self._table.read(f"optimizer state {name}", part_of)


class StateNameExchange:
    """Tells every rank the names that any rank has, in one collective.

    Its size depends on the number of ranks alone, and all memory is allocated here. With one
    process there is no collective.
    """

    def __init__(self) -> None:
        self._sent = self._received = torch.empty(0, device="cpu")
        if world_size() > 1:
            device = collective_device()
            self._sent = torch.zeros(_SENT_BYTES, dtype=torch.uint8, device=device)
            shape = (world_size(), _SENT_BYTES)
            self._received = torch.zeros(shape, dtype=torch.uint8, device=device)

    def of_all_ranks(self, own: StateNames) -> StateNames:
        """Returns the names of all ranks together, the same on every rank. The host waits."""
        if world_size() == 1:
            return own
        self._sent.zero_()
        packed = _packed(own)
        self._sent[: len(packed)] = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
        dist.all_gather(list(self._received.unbind(0)), self._sent)
        rows = self._received.cpu().numpy()
        return StateNames.of_all(_unpacked(row.tobytes()) for row in rows)


def _part(row: Row, state: Tensor) -> Tensor | None:
    """Returns this rank's part of a state, and raises an error if the state cannot be shown.

    Raises:
        UnsupportedTensor: It has no floating-point number for each element of the parameter.
    """
    if state.numel() == 1 and row.global_count != 1 and state.dim() == 0:
        raise UnsupportedTensor(_ONE_NUMBER)
    if not state.is_floating_point():
        raise UnsupportedTensor(f"their elements are {state.dtype}, as of a quantised state")
    part = row.adapter.state_part(row.parameter, state)
    reason = None if part is None else unsupported_tensor_type(part)
    if reason is not None:
        raise UnsupportedTensor(f"they may be quantised, because {reason}")
    return part


def _packed(names: StateNames) -> bytes:
    """Returns the names as at most `_SENT_BYTES` bytes. Reasons are left out first."""
    shown = list(names.shown)
    packed = json.dumps([shown, dict(names.left_out)]).encode()
    while len(packed) > _SENT_BYTES:
        packed = json.dumps([shown, {}]).encode()
        shown = shown[:-1]
    return packed


def _unpacked(packed: bytes) -> StateNames:
    shown, left_out = json.loads(packed.rstrip(b"\0").decode())
    return StateNames(tuple(shown), left_out)
