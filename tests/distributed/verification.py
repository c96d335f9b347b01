"""Compares statistics put together from shards with those of the gathered tensors."""

import json
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tbtrainer.sharding import AllRanks, ParameterTable, parameter_table
from tbtrainer.sharding.optimizer_states import OptimizerStates, StateNameExchange
from tbtrainer.statistics import (
    Differences,
    Snapshot,
    SnapshotRows,
    Source,
    TensorCopies,
    WholeTensors,
    measure,
    take_snapshot,
)

STEPS = 3
CPU = torch.device("cpu")
# Takes a function that is to be called when the gradients are ready, and the number of the step.
TrainStep = Callable[[Callable[[], None], int], None]
Gather = Callable[[ParameterTable], list[Tensor | None]]
GatherState = Callable[[ParameterTable, str], list[Tensor | None]]


@dataclass
class Case:
    """One way of sharding, set up.

    Attributes:
        model: As it is trained.
        train_step: Takes one optimizer step.
        full_parameters: Gathers the whole parameters, in the table's order, on every rank.
        full_gradients: The same of the gradients.
        full_state: The same of one optimizer state.
        optimizer: Without accelerate's wrapper.
        facts: What shows that the mode is really on.
        loss_scale: What the gradients are multiplied by.
        plants_gradients: Whether a NaN on one rank alone does not upset the mode itself.
    """

    model: nn.Module
    train_step: TrainStep
    full_parameters: Gather
    full_gradients: Gather
    full_state: GatherState
    optimizer: Any
    facts: dict[str, Any]
    loss_scale: Callable[[], Tensor | None] = lambda: None
    plants_gradients: bool = True


@dataclass
class Verdict:
    """What rank zero found.

    Attributes:
        facts: Those of the case, and what the table says.
        differences: Every deviation from the reference, in words.
        norm_error: Largest relative deviation of a norm.
        gradients: Names of the parameters whose gradient was seen.
        first_norms: Norms of the gradients of the first step, by name.
        names: Names of the parameters shown.
        states: Names of the optimizer states shown.
        states_left_out: Names of the others.
        compared_states: Optimizer states compared over all steps.
        compared: Tensors compared over all steps.
        planted: Non-finite values planted in one rank's shard and found again.
        warnings: What was logged while the table was built and read.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    norm_error: float = 0.0
    gradients: list[str] = field(default_factory=list)
    first_norms: dict[str, float] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    states_left_out: list[str] = field(default_factory=list)
    compared_states: int = 0
    compared: int = 0
    planted: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Collected(logging.Handler):
    """Keeps what is logged.

    Args:
        messages: Where it is kept.
    """

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one message."""
        self.messages.append(record.getMessage())


def verify(case: Case) -> Verdict:
    """Trains some steps, and compares parameters, gradients, updates and states at each."""
    verdict = Verdict()
    handler = Collected(verdict.warnings)
    logging.getLogger("tbtrainer").addHandler(handler)
    table = parameter_table(case.model, is_world_process_zero=dist.get_rank() == 0)
    verdict.facts = {**case.facts, "mode": table.mode, "needs_reduction": table.needs_reduction}
    verdict.names = [row.name for row in table.rows]
    for step in range(STEPS):
        last = step == STEPS - 1
        before: list[tuple[list[Tensor | None], TensorCopies]] = []

        def observe(last: bool = last, step: int = step, before: Any = before) -> None:
            before.append((case.full_parameters(table), TensorCopies.of(table.parameters())))
            if last and case.plants_gradients:
                verdict.planted += plant("gradients", table, table.gradients(), float("nan"))
            loss_scale = case.loss_scale()
            full = case.full_gradients(table)
            verdict.gradients = [
                row.name for row, g in zip(table.rows, full, strict=True) if g is not None
            ]
            place = f"gradients of step {step}"
            compare(verdict, place, table, table.gradients(), full, loss_scale)

        case.train_step(observe, step)
        ((full_before, copies),) = before
        pairs = zip(case.full_parameters(table), full_before, strict=True)
        updates = [subtracted(after, earlier) for after, earlier in pairs]
        source = Differences(table.parameters(), copies)
        compare(verdict, f"updates of step {step}", table, source, updates, None)
        compare_states(verdict, step, table, case)
        if last:
            verdict.planted += plant("parameters", table, table.parameters(), float("inf"))
        place = f"parameters after step {step}"
        compare(verdict, place, table, table.parameters(), case.full_parameters(table), None)
    logging.getLogger("tbtrainer").removeHandler(handler)
    return verdict


def compare_states(verdict: Verdict, step: int, table: ParameterTable, case: Case) -> None:
    """Compares every state of the optimizer that is divided like the parameters."""
    states = OptimizerStates(table, case.optimizer)
    names = StateNameExchange().of_all_ranks(states.names())
    verdict.states, verdict.states_left_out = list(names.shown), sorted(names.left_out)
    for name in names.shown:
        full = case.full_state(table, name)
        compare(verdict, f"{name} after step {step}", table, states.parts(name), full, None)
        verdict.compared_states += sum(tensor is not None for tensor in full)


def subtracted(after: Tensor | None, before: Tensor | None) -> Tensor | None:
    """What a step added to a whole parameter, exact but for float32's own rounding."""
    return None if after is None or before is None else after.float() - before.float()


@torch.no_grad()
def plant(
    what: str, table: ParameterTable, parts: Sequence[Tensor | None], value: float
) -> list[str]:
    """Puts a value into one shard of a trained tensor: never rank zero's where there is another.

    Where every rank holds the whole tensor, it is put into all of them.
    """
    for index, row in enumerate(table.rows):
        part = parts[index]
        held = [0] * dist.get_world_size()
        dist.all_gather_object(held, 0 if part is None else part.numel())
        last = max((rank for rank, count in enumerate(held) if count), default=0)
        if row.parameter.requires_grad and last > 0:
            if dist.get_rank() == last and part is not None:
                part.reshape(-1)[-1] = value
            return [f"{what}: {row.name} on one of {len(held)} ranks"]
    row = next(row for row in table.rows if row.parameter.requires_grad)
    whole = row.parameter if what == "parameters" else row.parameter.grad
    whole.reshape(-1)[-1] = value
    return [f"{what}: {row.name} on all ranks"]


def whole_snapshot(
    table: ParameterTable, parts: Sequence[Tensor | None] | Source, loss_scale: Tensor | None
) -> Snapshot:
    """A snapshot with a row for each tensor, reduced where that is needed."""
    names = [row.name for row in table.rows]
    rows = SnapshotRows.of(names, [row.global_count for row in table.rows], CPU)
    reduction = AllRanks(rows, sums_beside=True) if table.needs_reduction else WholeTensors()
    own = [0 if part is None else part.numel() for part in table.parameters()]
    beside = torch.tensor(own, dtype=torch.float64)
    return take_snapshot(lambda: parts, rows, reduction, loss_scale, beside=lambda: beside)


def compare(
    verdict: Verdict,
    place: str,
    table: ParameterTable,
    parts: Sequence[Tensor | None] | Source,
    full: Sequence[Tensor | None],
    loss_scale: Tensor | None,
) -> None:
    """Adds to the verdict, on rank zero, how the parts together differ from the whole."""
    snapshot = whole_snapshot(table, parts, loss_scale)
    if dist.get_rank() != 0:
        return
    found = snapshot.statistics
    problems = snapshot.rows.count_mismatches(found.count.tolist())
    verdict.differences += [f"{place}: {problem}" for problem in problems.values()]
    assert snapshot.beside is not None
    if snapshot.beside.tolist() != [row.global_count for row in table.rows]:
        verdict.differences.append(f"{place}: the numbers beside were not added up")
    buckets = measure(full, CPU, loss_scale).buckets
    for index, (row, tensor) in enumerate(zip(table.rows, full, strict=True)):
        expected = _reference(tensor, loss_scale)
        got = {
            "count": int(found.count[index]),
            "nonfinite": int(found.nonfinite[index]),
            "zeros": int(found.zeros[index]),
            "minimum": float(found.minimum[index]),
            "maximum": float(found.maximum[index]),
        }
        for key, value in got.items():
            if value != expected[key]:
                verdict.differences.append(
                    f"{place}: {row.name} has {key} {value}, not {expected[key]}"
                )
        if not torch.equal(found.buckets[index], buckets[index]):
            verdict.differences.append(f"{place}: {row.name} has other bucket counts")
        linear = snapshot.linear[snapshot.rows.linear_row_of[index]]
        if int(linear.sum()) != got["count"] - got["nonfinite"]:
            verdict.differences.append(f"{place}: {row.name} has other linear counts")
        norm = float(found.sum_of_squares[index]) ** 0.5
        error = abs(norm - expected["norm"]) / max(expected["norm"], 1e-30)
        verdict.norm_error = max(verdict.norm_error, error)
        if place == "gradients of step 0" and tensor is not None:
            verdict.first_norms[row.name] = norm
        verdict.compared += tensor is not None


def _reference(tensor: Tensor | None, loss_scale: Tensor | None) -> dict[str, float]:
    """Returns the statistics of a tensor, computed in float64 by the shortest way."""
    if tensor is None:
        tensor = torch.zeros(0)
    values = tensor.detach().double().flatten()
    if loss_scale is not None:
        values = values / loss_scale
    finite = values[values.isfinite()]
    return {
        "count": values.numel(),
        "nonfinite": values.numel() - finite.numel(),
        "zeros": int((values == 0).sum()),
        "minimum": float(finite.min()) if finite.numel() else float("inf"),
        "maximum": float(finite.max()) if finite.numel() else float("-inf"),
        "norm": float(finite.square().sum().sqrt()),
    }


def run(cases: dict[str, Callable[[], Case]]) -> None:
    """Verifies the cases one after another; rank zero prints one JSON verdict for all."""
    verdicts: dict[str, Any] = {}
    for name, build in cases.items():
        try:
            verdicts[name] = vars(verify(build()))
        except Exception:
            # The other ranks wait for this one: torchrun ends them.
            print(f"{name} failed on rank {dist.get_rank()}:\n{traceback.format_exc()}", flush=True)
            raise
    if dist.get_rank() == 0:
        print(json.dumps(verdicts), flush=True)
    dist.barrier()
    dist.destroy_process_group()
