"""Started by torchrun on two processes: what happens where a rank cannot serve something."""

import json
import logging
import sys
import tempfile
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial

from tbtrainer.observers.histograms import Histograms
from tbtrainer.observers.schedule import SnapshotSchedule, agreed_schedule
from tbtrainer.run import RunWriter
from tbtrainer.sharding import AllRanks, parameter_table
from tbtrainer.sharding.agreement import failed_on_any_rank
from tbtrainer.sharding.dtensor import DTensorAdapter
from tbtrainer.statistics import PreviousExtremes, SnapshotRows, TensorStatistics, take_snapshot
from tests.distributed.odd_model import OddModel, batch
from tests.distributed.verification import CPU, Collected, whole_snapshot
from tests.events import event_files, histograms
from tests.gradients import Norms
from tests.recorder import Recorder


def rank() -> int:
    """Rank of this process."""
    return dist.get_rank()


def table_of(model: nn.Module) -> Any:
    """The table, made on both ranks."""
    return parameter_table(model, is_world_process_zero=rank() == 0)


def parts_of_an_unknown_sharding() -> list[str]:
    """Rank one holds other values under the same name, and nothing says so."""
    model = OddModel()
    if rank() == 1:
        nn.init.normal_(model.frozen.weight)
    return [row.name for row in table_of(model).rows]


def marked_parts() -> list[str]:
    """A library marks its parts; their values are the same by chance."""
    model = OddModel()
    model.frozen.bias.tensor_model_parallel = True
    return [row.name for row in table_of(model).rows]


def different_parameters() -> list[str]:
    """As in a pipeline, the ranks hold different layers."""
    return [row.name for row in table_of(OddModel(blocks=1 + rank())).rows]


def one_rank_cannot_list() -> list[str]:
    """An error while the rows are listed, on one rank."""
    model = OddModel()
    if rank() == 1:
        model.named_parameters = None  # type: ignore[assignment]
    return [row.name for row in table_of(model).rows]


class Failing(DTensorAdapter):
    """Stands for a library that changed."""

    def part(self, parameter: Tensor, tensor: Tensor) -> Tensor | None:
        """Fails."""
        raise AttributeError("it is kept in another way")


def one_rank_cannot_read() -> dict[str, Any]:
    """An error while the parts are read, on one rank: the other waits in a collective."""
    model = OddModel()
    fully_shard(model)
    table = table_of(model)
    spoilt = next(index for index, row in enumerate(table.rows) if row.name == "embed.weight")
    if rank() == 1:
        table.rows[spoilt] = replace(table.rows[spoilt], adapter=Failing())
    snapshot = whole_snapshot(table, table.parameters(), None)
    found = snapshot.statistics
    return {
        "mismatches": list(snapshot.rows.count_mismatches(found.count.tolist()).values()),
        "right": int((found.count == torch.tensor([r.global_count for r in table.rows])).sum()),
        "rows": len(table.rows),
    }


def out_of_memory(*_: object) -> Any:
    """Stands for a device without room."""
    raise torch.OutOfMemoryError("no room for the counters")


def one_rank_has_no_memory() -> list[int]:
    """An error wherever statistics are allocated, on one rank, at a snapshot and at the next."""
    model = OddModel()
    fully_shard(model)
    with tempfile.TemporaryDirectory() as directory:
        writer = RunWriter(directory) if rank() == 0 else None
        recorder = Recorder(table_of(model), writer, CPU, action="warn")
        with (
            mock.patch.object(TensorStatistics, "empty", out_of_memory) if rank() else nullcontext()
        ):
            recorder.parameters(1)
        recorder.parameters(2)
        recorder.close()
        if writer is None:
            return []
        writer.close()
        return sorted(
            {step for file in event_files(Path(directory)) for _, step in histograms(file)}
        )


def one_rank_cannot_begin() -> list[int]:
    """An error while an observer begins, on one rank: none may go on with it alone."""
    model = OddModel()
    fully_shard(model)
    broken = mock.patch.object(Histograms, "run_begins", out_of_memory)
    with tempfile.TemporaryDirectory() as directory:
        writer = RunWriter(directory) if rank() == 0 else None
        with broken if rank() == 1 else nullcontext():
            recorder = Recorder(table_of(model), writer, CPU, action="warn")
        recorder.parameters(1)
        recorder.close()
        if writer is None:
            return []
        writer.close()
        return [step for file in event_files(Path(directory)) for _, step in histograms(file)]


def one_rank_has_no_memory_to_agree() -> list[str]:
    """An error on one rank wherever more than a few numbers are allocated for the agreement."""
    model = OddModel()
    with ExitStack() as stack:
        for name in ("tensor", "zeros", "empty") if rank() == 1 else ():
            original = getattr(torch, name)

            def small_only(*args: Any, original: Any = original, **kwargs: Any) -> Tensor:
                made: Tensor = original(*args, **kwargs)
                return out_of_memory() if made.numel() > 10 else made

            stack.enter_context(mock.patch.object(torch, name, small_only))
        return [row.name for row in table_of(model).rows]


def failures_are_agreed() -> dict[str, list[bool]]:
    """Observers that fail on one rank, of which those after the first may differ."""
    is_first = rank() == 0
    own = f"Own{rank()}"
    return {
        "common": failed_on_any_rank(["A", "B"], [not is_first, False], 2),
        "added everywhere": failed_on_any_rank(["A", "Own"], [False, is_first], 1),
        "added and different": failed_on_any_rank(["A", own], [False, is_first], 1),
        "added on one rank": failed_on_any_rank(
            ["A", "Own"][: 1 + rank()], [False, True][: 1 + rank()], 1
        ),
    }


def schedules_are_agreed() -> list[int]:
    """Ranks whose epochs differ in length."""
    schedule = agreed_schedule(SnapshotSchedule(every=3 + rank(), last=10 + rank()))
    return [schedule.every, schedule.last]


def sparse_gradient() -> list[bool]:
    """A gradient that has no elements to be read."""
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 2))
    table = table_of(model)
    for _ in range(2):
        model(torch.tensor([1, 2])).sum().backward()
        gradients = table.measurable("gradient", table.gradients())
        seen = [gradient is not None for gradient in gradients]
    return seen


def partial_sums() -> dict[str, Any]:
    """A parameter, and a gradient, that exist as partial sums only."""
    mesh = init_device_mesh("cpu", (2,))
    model = nn.Module()
    model.whole = nn.Parameter(DTensor.from_local(torch.ones(3), mesh))
    model.partial = nn.Parameter(DTensor.from_local(torch.ones(3), mesh, [Partial()]))
    table = table_of(model)
    model.whole.grad = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    gradients = [gradient is not None for gradient in table.gradients()]
    return {"rows": [row.name for row in table.rows], "gradients": gradients}


def collectives() -> dict[str, Any]:
    """Bytes of every collective of a snapshot, for a model and for one a thousand times larger."""
    found = {}
    for name, width in (("small", 4), ("large", 128)):
        model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
        fully_shard(model)
        table = table_of(model)
        carried: list[int] = []
        originals = {key: getattr(dist, key) for key in ("all_reduce", "reduce")}

        def counted(key: str, carried: list[int] = carried, originals: Any = originals) -> Any:
            def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
                carried.append(tensor.numel() * tensor.element_size())
                return originals[key](tensor, *args, **kwargs)

            return call

        for key in originals:
            setattr(dist, key, counted(key))
        whole_snapshot(table, table.parameters(), None)
        for key, original in originals.items():
            setattr(dist, key, original)
        found[name] = carried
    return found


def narrow_rows_of_shards() -> list[list[int]]:
    """Three snapshots of a large sharded tensor around 1; one rank has no memory at the second.

    Returns the number of narrow rows and of elements in the linear pass, of each snapshot.
    """
    model = nn.Linear(300, 300, bias=False)
    nn.init.normal_(model.weight, 1.0, 0.01, generator=torch.Generator().manual_seed(0))
    fully_shard(model)
    table = table_of(model)
    rows = SnapshotRows.of(["weight"], [90_000], CPU)
    reduction, previous = AllRanks(rows), PreviousExtremes(rows)
    found: list[list[int]] = []
    for step in range(4):
        broken = mock.patch.object(TensorStatistics, "empty", out_of_memory)
        with broken if rank() == 1 and step == 1 else nullcontext():
            try:
                snapshot = take_snapshot(table.parameters, rows, reduction, previous=previous)
            except torch.OutOfMemoryError:
                found.append([-1, -1])
                continue
        found.append([len(snapshot.narrow.rows), int(snapshot.linear.sum())])
    return found


def zero_biases_that_differ() -> list[str]:
    """Parts that begin with zeros on every rank, as those of a bias do: the ends differ."""
    model = OddModel()
    with torch.no_grad():
        model.frozen.bias.zero_()
        model.frozen.bias[-1] = float(rank())
        model.frozen.weight.fill_(torch.nan)
    return [row.name for row in table_of(model).rows]


def one_rank_has_no_memory_for_norms() -> list[tuple[float | None, float]]:
    """An error where norms allocate or are stored, on one rank, in steps between first and last.

    Returns the norm and the expected one, of each step.
    """
    model = OddModel()
    fully_shard(model)
    table = table_of(model)
    norms = Norms(table, "total", errors="warn")
    found: list[tuple[float | None, float]] = []
    places = [None, (torch.Tensor, "index_copy_"), (torch, "tensor"), (torch, "empty"), None]
    for step, place in enumerate(places):
        model.zero_grad()
        model(batch(step, rank())).backward()
        if step % 2:
            # A gradient of another kind, so that the norms are planned anew at every step.
            model.scale.grad = None
        gradients = table.gradients()
        with mock.patch.object(*place, out_of_memory) if rank() and place else nullcontext():
            norms.accumulate(gradients)
        summary = norms.summary()
        whole = [p.grad.full_tensor() for p in model.parameters() if p.grad is not None]
        expected = sum(float(gradient.double().square().sum()) for gradient in whole)
        found.append((None if summary is None else summary.total, expected**0.5))
    return found


CASES = (
    parts_of_an_unknown_sharding,
    marked_parts,
    different_parameters,
    one_rank_cannot_list,
    one_rank_cannot_read,
    one_rank_has_no_memory,
    one_rank_cannot_begin,
    one_rank_has_no_memory_to_agree,
    failures_are_agreed,
    schedules_are_agreed,
    sparse_gradient,
    partial_sums,
    collectives,
    narrow_rows_of_shards,
    zero_biases_that_differ,
    one_rank_has_no_memory_for_norms,
)

if __name__ == "__main__":
    dist.init_process_group("gloo")
    verdicts = {}
    for case in CASES:
        if sys.argv[1:] and case.__name__ not in sys.argv[1:]:
            continue
        messages: list[str] = []
        handler = Collected(messages)
        logging.getLogger("tbtrainer").addHandler(handler)
        result = case()
        logging.getLogger("tbtrainer").removeHandler(handler)
        everywhere: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everywhere, {"result": result, "warnings": messages})
        verdicts[case.__name__] = everywhere
    if rank() == 0:
        print(json.dumps(verdicts), flush=True)
    dist.destroy_process_group()
