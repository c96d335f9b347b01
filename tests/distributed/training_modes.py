"""Started by torchrun: one training with `Trainer` and with `TBTrainer`, compared on each rank.

    torchrun --nproc-per-node 2 tests/distributed/training_modes.py MODE DIRECTORY

MODE is one of ddp, ddp-without-dropout, fsdp1, fsdp2, zero1, zero2, zero3. Rank zero prints one
JSON verdict.
"""

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import Trainer, TrainingArguments

from tbtrainer import HistogramTarget, Observer, TBTrainer, TBTrainingArguments
from tbtrainer.arguments import HISTOGRAM_TARGETS
from tbtrainer.observers.training import Training
from tbtrainer.records import Records
from tests.distributed.fsdp_on_cpu import allow_fsdp_on_cpu
from tests.tiny import arguments, classifier, equal, trainer

CHANGES: dict[str, Any] = {
    "eval_strategy": "steps",
    "eval_steps": 5,
    "gradient_accumulation_steps": 2,
}
SHOWN = {
    "histogram_steps": 1,
    "histogram_targets": list(HISTOGRAM_TARGETS),
    "norm_detail": "parameter",
    # Looks at every step, and makes no difference as long as all is finite.
    "nonfinite_action": "stop",
    "telemetry_errors": "raise",
}


class OwnTargets(Observer):
    """Shows the parameters again, and the loss of each rank."""

    def run_begins(self, step: int, training: Training) -> None:
        self.parameters = [row.parameter for row in training.parameters.rows]
        self.like = HistogramTarget.like_parameters(training, "own_parameters")
        self.losses = HistogramTarget.of(training, "own_loss", ["last"], "different")

    def micro_batch_taken(self, step: int, loss: torch.Tensor) -> None:
        self.loss = loss

    def step_taken(self, step: int) -> Records:
        shown = self.like.records(step, lambda: self.parameters)
        return [*shown, *self.losses.records(step, lambda: [self.loss])]


def changes_of(mode: str) -> dict[str, Any]:
    """The arguments that make `Trainer` run in a mode."""
    if mode == "ddp-without-dropout":
        # Otherwise `Trainer` makes the loss of two processes twice that of one.
        return {"average_tokens_across_devices": False}
    if mode == "ddp":
        return {"save_strategy": "steps", "save_steps": 5}
    if mode.startswith("fsdp"):
        version = int(mode[-1])
        return {
            "fsdp": "full_shard auto_wrap",
            "fsdp_config": {
                "fsdp_version": version,
                "version": version,
                "reshard_after_forward": True if version == 2 else "full_shard",
                "transformer_layer_cls_to_wrap": ["BertLayer"],
                "use_orig_params": True,
                # On CPUs accelerate finds no device to do these on.
                "sync_module_states": False,
                "cpu_ram_efficient_loading": False,
            },
        }
    stage = int(mode[-1])
    config = {
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    return {"deepspeed": config}


def state_of(made: Any) -> dict[str, Any]:
    """All state after a training, in the shards of this rank."""
    return {
        "weights": {n: local_copy(p) for n, p in made.model_wrapped.named_parameters()},
        "optimizer": local_copy(made.optimizer.state_dict()),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "history": [
            {k: v for k, v in entry.items() if not k.endswith(("runtime", "per_second"))}
            for entry in made.state.log_history
        ],
    }


def local_copy(value: Any) -> Any:
    """A copy of this rank's part of a nested state."""
    if isinstance(value, dict):
        return {key: local_copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [local_copy(item) for item in value]
    if not isinstance(value, torch.Tensor):
        return value if isinstance(value, int | float | str | bool) else None
    value = getattr(value, "ds_tensor", value).detach()
    return (value.to_local() if hasattr(value, "to_local") else value).clone()


def main(mode: str, directory: str) -> None:
    """Trains twice and prints the verdict."""
    allow_fsdp_on_cpu()
    changes = {**CHANGES, **changes_of(mode)}
    # Every node has its own output directory, as on machines without a shared disk.
    output = Path(directory) / f"node-{os.environ['GROUP_RANK']}"
    dropout = 0.0 if mode == "ddp-without-dropout" else 0.1
    args = arguments(TrainingArguments, output / "stock", **changes)
    stock = trainer(Trainer, args, model=classifier(dropout=dropout))
    stock.train()
    expected = state_of(stock)
    args = arguments(TBTrainingArguments, output / "ours", **changes, **SHOWN)
    ours = trainer(TBTrainer, args, model=classifier(dropout=dropout))
    ours.add_observer(OwnTargets())
    writer = type(ours.writer).__name__
    ours.train()
    actual = state_of(ours)
    ours.evaluate()
    verdict = {
        "rank": dist.get_rank(),
        "distributed_type": str(ours.accelerator.distributed_type),
        "wrapper": type(ours.model_wrapped).__name__,
        "parameters": sorted({type(p.data).__name__ for p in ours.model_wrapped.parameters()}),
        "elements_here": sum(p.numel() for p in map(local_copy, ours.model_wrapped.parameters())),
        "should_log": ours.args.should_log,
        "writer": writer,
        "equal": {key: equal(value, actual[key]) for key, value in expected.items()},
    }
    verdicts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(verdicts, verdict)
    if dist.get_rank() == 0:
        print(json.dumps(verdicts), flush=True)
    dist.destroy_process_group()
    # Once in a hundred times DeepSpeed's shared memory aborts the interpreter while it ends.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
