"""Started by torchrun on two processes: ZeRO-3's gradients when the optimizer is offloaded."""

import json
import logging
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.utils import safe_get_full_grad
from torch import nn

from tbtrainer.observers.deepspeed_engine import observed_engine_step
from tbtrainer.sharding import parameter_table
from tests.distributed.odd_model import OddModel, batch
from tests.distributed.verification import Collected
from tests.gradients import Norms

STEPS = 2


def engine_of(model: nn.Module) -> Any:
    """An engine whose optimizer lies in main memory."""
    config = {
        "train_micro_batch_size_per_gpu": 3,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]


def main() -> None:
    """Compares norms and sums with DeepSpeed's gathered gradients; counts its own look-ups."""
    deepspeed.init_distributed(dist_backend="gloo")
    rank = dist.get_rank()
    engine = engine_of(OddModel())
    table = parameter_table(engine, is_world_process_zero=rank == 0)
    norms = Norms(table, "parameter")
    looked_up: list[str] = []
    names = ("get_local_fp32_grad_for_param", "_get_fp32_grad_state_partition")
    originals = {name: getattr(DeepSpeedZeroOptimizer_Stage3, name) for name in names}
    expected: list[list[float]] = []
    in_place = True

    def counted(name: str) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            looked_up.append(name)
            return originals[name](self, *args, **kwargs)

        return call

    def observe() -> bool:
        nonlocal in_place
        for name in names:
            setattr(DeepSpeedZeroOptimizer_Stage3, name, counted(name))
        gradients = table.gradients()
        norms.accumulate(gradients)
        for name in names:
            setattr(DeepSpeedZeroOptimizer_Stage3, name, originals[name])
        kept = [flat.grad for flat in engine.optimizer.fp32_partitioned_groups_flat]
        places = {tensor.untyped_storage().data_ptr() for tensor in kept}
        in_place &= all(
            g is None or g.numel() == 0 or g.untyped_storage().data_ptr() in places
            for g in gradients
        )
        full = [safe_get_full_grad(row.parameter) for row in table.rows]
        expected.append([0.0 if g is None else float(g.double().norm()) for g in full])
        return True

    with observed_engine_step(engine, observe):
        for step in range(STEPS):
            engine.backward(engine(batch(step, rank)))
            engine.step()
    summary = norms.summary()
    assert summary is not None
    rms = {
        row.name: (sum(step[index] ** 2 for step in expected) / STEPS) ** 0.5
        for index, row in enumerate(table.rows)
        if row.parameter.requires_grad
    }
    # The optimizer itself cannot be swapped here: what it says of itself is all that is read.
    engine.optimizer.swap_optimizer = True
    messages: list[str] = []
    handler = Collected(messages)
    logging.getLogger("tbtrainer").addHandler(handler)
    swapped = parameter_table(engine, is_world_process_zero=rank == 0)
    logging.getLogger("tbtrainer").removeHandler(handler)
    verdict = {
        "offloads": engine.optimizer.offload_optimizer,
        "looked_up": looked_up,
        "in_place": in_place,
        "expected": rms,
        "found": summary.rms,
        "on_nvme": {
            "rows": len(swapped.rows),
            "gradients": sum(gradient is not None for gradient in swapped.gradients()),
            "parameters": sum(part is not None for part in swapped.parameters()),
            "warnings": messages,
        },
    }
    verdicts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(verdicts, verdict)
    if rank == 0:
        print(json.dumps(verdicts), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
