"""Started by torchrun on four processes: all snapshots at every step, in modes without `Trainer`.

    torchrun --nproc-per-node 4 tests/distributed/unchanged_modes.py DIRECTORY MODE...

Each mode is trained with and without snapshots. Rank zero prints one JSON verdict.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, PartialState

from tbtrainer.run import RunWriter
from tbtrainer.sharding import parameter_table
from tests.distributed import mesh_modes, torch_modes
from tests.distributed.training_modes import local_copy
from tests.distributed.verification import CPU, STEPS, Case
from tests.recorder import Recorder
from tests.tiny import equal

TARGETS = ["parameters", "gradients", "updates", "optimizer_state"]
CASES: dict[str, Callable[[], Case]] = {
    **{name: mesh_modes.CASES[name] for name in ("hsdp", "hsdp-lora", "fsdp1-hybrid")},
    **{name: mesh_modes.CASES[name] for name in ("fsdp2-tensor-parallel", "fsdp1-flat-four-ranks")},
    **{name: torch_modes.CASES[name] for name in ("tensor-parallel", "fsdp2-lora", "fsdp1-lora")},
}


@contextmanager
def accelerate_kept() -> Iterator[None]:
    """Restores accelerate's state at the end, which a new `TrainingArguments` resets."""
    shared = [kind._shared_state for kind in (AcceleratorState, PartialState)]
    kept = [dict(state) for state in shared]
    yield
    for state, before in zip(shared, kept, strict=True):
        state.clear()
        state.update(before)


def trained(build: Callable[[], Case], directory: Path | None) -> list[Any]:
    """Trains some steps, with snapshots if there is a directory; returns this rank's state."""
    torch.manual_seed(0)
    case = build()
    recorder = None
    if directory is not None:
        is_zero = dist.get_rank() == 0
        table = parameter_table(case.model, is_world_process_zero=is_zero)
        writer = RunWriter(str(directory)) if is_zero else None
        values = {"optimizer": case.optimizer, "histogram_targets": TARGETS}
        with accelerate_kept():
            recorder = Recorder(table, writer, CPU, **values)
    for step in range(1, STEPS + 1):

        def observe(step: int = step) -> None:
            if recorder is not None:
                recorder.gradients(step, table.gradients())

        case.train_step(observe, step)
        if recorder is not None:
            recorder.parameters(step)
    if recorder is not None:
        recorder.close()
        if recorder.writer is not None:
            recorder.writer.close()
    parameters = list(case.model.parameters())
    states = [dict(case.optimizer.state.get(parameter, {})) for parameter in parameters]
    return [local_copy(parameters), local_copy(states), torch.get_rng_state()]


def main(directory: str, modes: list[str]) -> None:
    """Trains each mode twice and prints the verdict."""
    dist.init_process_group("gloo")
    found: dict[str, list[bool]] = {}
    for mode in modes:
        expected = trained(CASES[mode], None)
        actual = trained(CASES[mode], Path(directory) / mode)
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, equal(expected, actual))
        found[mode] = everyone
    if dist.get_rank() == 0:
        print(json.dumps(found), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
