"""Started by torchrun on two processes: DeepSpeed's ZeRO stages against gathered references."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import deepspeed
import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.state import AcceleratorState, PartialState
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import safe_get_full_grad, safe_get_full_optimizer_state
from torch import Tensor, nn

from tbtrainer.observers.deepspeed_engine import engine_loss_scale, observed_engine_step
from tbtrainer.sharding import ParameterTable
from tests.distributed.lora import with_lora
from tests.distributed.odd_model import OddModel, batch
from tests.distributed.verification import Case, GatherState, run


def prepared(model: nn.Module, config: dict[str, Any]) -> tuple[Accelerator, Any]:
    """Returns accelerator and engine, made like `Trainer` makes them."""
    AcceleratorState._reset_state()
    PartialState._reset_state()
    # `TrainingArguments` does this too; without it accelerate takes every rank for the first.
    PartialState(cpu=True)
    accelerator = Accelerator(
        deepspeed_plugin=DeepSpeedPlugin(
            hf_ds_config={
                "train_micro_batch_size_per_gpu": 3,
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                **config,
            }
        ),
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    engine, _ = accelerator.prepare(model, optimizer)
    return accelerator, engine


def zero(
    stage: int,
    model: nn.Module | None = None,
    precision: dict[str, Any] | None = None,
    accumulation: int = 1,
    **zero_options: Any,
) -> Case:
    config = {
        "zero_optimization": {"stage": stage, **zero_options},
        "gradient_accumulation_steps": accumulation,
        **(precision or {}),
    }
    accelerator, engine = prepared(model or OddModel(), config)
    trained = [p for p in engine.parameters() if p.requires_grad]

    def train_step(observe: Callable[[], None], step: int) -> None:
        def observe_and_take() -> bool:
            observe()
            return True

        with observed_engine_step(engine, observe_and_take):
            for micro_step in range(accumulation):
                tokens = batch(10 * step + micro_step, accelerator.process_index)
                with accelerator.accumulate(engine):
                    accelerator.backward(engine(tokens))

    facts = {
        "distributed_type": str(accelerator.distributed_type).split(".")[-1],
        "processes": accelerator.num_processes,
        "wrapper": type(engine).__name__,
        "optimizer": type(engine.optimizer).__name__,
        "stage": engine.zero_optimization_stage(),
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in trained}),
        "local_elements": sum(p.numel() for p in engine.parameters()),
        "loss_scale": getattr(engine.optimizer, "loss_scale", None),
    }
    return Case(
        engine,
        train_step,
        full_parameters,
        full_gradients,
        full_state(engine),
        engine.optimizer,
        facts,
        lambda: engine_loss_scale(engine),
    )


def full_parameters(table: ParameterTable) -> list[Tensor | None]:
    """The parameters, gathered where ZeRO-3 partitioned them."""
    parameters = [row.parameter for row in table.rows]
    partitioned = [p for p in parameters if hasattr(p, "ds_id")]
    # Gathering copies no parameter that ZeRO-3 keeps whole, and would miss what was planted.
    with deepspeed.zero.GatheredParameters(partitioned):
        return [p.detach().clone() for p in parameters]


def full_gradients(table: ParameterTable) -> list[Tensor | None]:
    """The whole gradients, gathered by DeepSpeed."""
    full = [safe_get_full_grad(row.parameter) for row in table.rows]
    return [None if gradient is None else gradient.detach().clone() for gradient in full]


def full_state(engine: Any) -> GatherState:
    """The whole optimizer states, gathered by DeepSpeed where it partitions them."""

    def gather(table: ParameterTable, name: str) -> list[Tensor | None]:
        whole: list[Tensor | None] = []
        for row in table.rows:
            parameter = row.parameter
            if engine.zero_optimization_stage() == 0 and not hasattr(parameter, "_hp_mapping"):
                whole.append(engine.optimizer.state.get(parameter, {}).get(name))
            else:
                whole.append(safe_get_full_optimizer_state(parameter, name))
        return [None if tensor is None else tensor.detach().clone() for tensor in whole]

    return gather


BFLOAT16 = {"bf16": {"enabled": True}}
# A scale that is no power of two; dynamic scales are, but need not be.
FLOAT16 = {"fp16": {"enabled": True, "loss_scale": 100.0}}

CASES = {
    "zero0": lambda: zero(0),
    "zero1": lambda: zero(1),
    "zero1-bfloat16": lambda: zero(1, precision=BFLOAT16),
    # Here every rank holds the whole gradient, and takes the step or not by what it sees itself.
    "zero1-bfloat16-float32-sums": lambda: replace(
        zero(1, precision={**BFLOAT16, "data_types": {"grad_accum_dtype": "fp32"}}),
        plants_gradients=False,
    ),
    "zero2": lambda: zero(2),
    "zero2-accumulation": lambda: zero(2, accumulation=2),
    "zero2-bfloat16": lambda: zero(2, precision=BFLOAT16),
    "zero2-float16": lambda: zero(2, precision=FLOAT16),
    # DeepSpeed 0.19.8 gives one parameter's gradient for another's here, or fails: no reference.
    "zero2-round-robin": lambda: replace(
        zero(2, round_robin_gradients=True),
        full_gradients=lambda table: [None] * len(table.rows),
        plants_gradients=False,
    ),
    "zero2-offload": lambda: zero(2, offload_optimizer={"device": "cpu"}),
    "zero2-lora": lambda: zero(2, with_lora(OddModel())),
    "zero3": lambda: zero(3),
    "zero3-partitioned": lambda: zero(3, stage3_param_persistence_threshold=0),
    "zero3-accumulation": lambda: zero(3, accumulation=2),
    "zero3-bfloat16": lambda: zero(3, precision=BFLOAT16),
    "zero3-float16": lambda: zero(3, precision=FLOAT16),
    "zero3-offload": lambda: zero(3, offload_optimizer={"device": "cpu"}),
    "zero3-lora": lambda: zero(3, with_lora(OddModel())),
}

if __name__ == "__main__":
    # DeepSpeed refuses float16 on CPUs, where torch computes with it well enough for a test.
    get_accelerator().is_fp16_supported = lambda: True
    deepspeed.init_distributed(dist_backend="gloo")
    chosen = sys.argv[1:] or list(CASES)
    run({name: CASES[name] for name in chosen})
