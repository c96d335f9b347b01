"""Started by torchrun: trainings into which NaN is planted, with each `nonfinite_action`.

    torchrun --nproc-per-node 2 tests/distributed/nonfinite_scenes.py MODE DIRECTORY [SCENE ...]

MODE is one of single, ddp, fsdp2, zero2, zero3, and those with -fp16 behind it. The scenes run one
after another. Rank zero prints one JSON verdict.
"""

import gc
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from tbtrainer import NonFiniteError, TBTrainingArguments
from tbtrainer.observers.deepspeed_engine import observed_engine_step
from tests.distributed.fsdp_on_cpu import allow_fsdp_on_cpu
from tests.distributed.training_modes import changes_of, local_copy, state_of
from tests.distributed.verification import Collected
from tests.planting import Plant, PlantingTBTrainer, PlantingTrainer, planted
from tests.tiny import arguments, equal

STEPS = 5
# Between a step with a checkpoint and one that is logged.
BAD_STEP = 3
SAVED_STEP = 2
CHANGES: dict[str, Any] = {
    "max_steps": STEPS,
    "logging_steps": 2,
    "per_device_eval_batch_size": 4,
    "save_strategy": "no",
}
# What is planted, and the actions that are tried. With "log" the training goes on as stock's.
SCENES: dict[str, tuple[str, ...]] = {
    "gradient": ("log", "stop", "raise"),
    "activation": ("log", "stop", "raise"),
    "loss": ("log", "stop", "raise"),
    "batch": ("log", "stop", "raise"),
    "weight": ("log", "stop", "raise"),
    # It is reported, and ends no training.
    "evaluation": ("log", "raise"),
    # Nothing is planted: the loss scale of float16 is too large at first.
    "overflow": ("log", "stop"),
}
FLOAT16_SCENES = ("gradient", "activation", "overflow")
FLOAT32_SCENES = tuple(scene for scene in SCENES if scene != "overflow")
# Powers of two. The large one overflows in the first step or two.
LOSS_SCALE, LARGE_LOSS_SCALE = 8, {"single": 20, "ddp": 20, "zero2": 16, "zero3": 16}
# The trainings that are resumed afterwards, one for each way that a scene can end.
RESUMED = {
    ("gradient", "stop"),
    ("activation", "raise"),
    ("loss", "raise"),
    ("batch", "stop"),
}


class WeightsBySteps(TrainerCallback):
    """Keeps copies of this rank's weights, by step; under "start" those before the first step."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.copies: dict[int | str, dict[str, Tensor]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keeps those that were loaded, if the training is resumed."""
        self.copies["start"] = weights_of(self.trainer)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keeps those after the step."""
        self.copies[state.global_step] = weights_of(self.trainer)


class WatchedTrainer(PlantingTrainer):
    """Stock's trainer. Looks for itself which gradients are not finite at one step.

    Attributes:
        watched_step: The step.
        found: The parameters with such gradients on any rank, in the model's order.
    """

    watched_step = 0
    found: Sequence[str] = ()

    def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Looks after the backward pass, before the gradients are clipped."""
        if self.state.global_step + 1 != self.watched_step:
            return super().training_step(model, *args, **kwargs)
        if self.is_deepspeed_enabled:
            with observed_engine_step(model, self._look):
                return super().training_step(model, *args, **kwargs)
        loss = super().training_step(model, *args, **kwargs)
        self._look()
        return loss

    def _look(self) -> bool:
        names = [n for n, p in self.model.named_parameters() if not self._has_finite_gradient(p)]
        of_all = gathered(names)
        self.found = [n for n, _ in self.model.named_parameters() if any(n in o for o in of_all)]
        return True

    def _has_finite_gradient(self, parameter: Tensor) -> bool:
        if self.is_deepspeed_enabled:
            from deepspeed.utils import safe_get_full_grad

            gradient = safe_get_full_grad(parameter)
        else:
            gradient = local_copy(parameter.grad)
        return gradient is None or bool(gradient.isfinite().all())


class Scenes:
    """The trainings of one mode.

    Args:
        mode: How the model is trained.
        directory: Where the trainings write.

    Attributes:
        facts: What shows that the mode is on.
    """

    def __init__(self, mode: str, directory: Path) -> None:
        self._base = mode.removesuffix("-fp16")
        self._is_float16 = mode != self._base
        self._directory = directory
        self._changes = {**({} if self._base == "single" else changes_of(self._base)), **CHANGES}
        healthy, weights = self._trainer("healthy", WatchedTrainer, Plant())
        healthy.train()
        self.facts = facts_of(healthy)
        # Those of a training into which nothing is planted.
        self._healthy = weights.copies

    def verdict(self, scene: str) -> dict[str, Any]:
        """Runs a scene with each of its actions, and returns what this rank found."""
        plant = Plant(scene, BAD_STEP, rank=processes() - 1)
        stock, weights = self._trainer(f"{scene}-stock", WatchedTrainer, plant)
        stock.watched_step = 1 if scene == "weight" else BAD_STEP
        stock.train()
        # The weights that a training keeps which does not take the bad step.
        kept = self._healthy[BAD_STEP - 1]
        if scene == "weight":
            kept = weights.copies["start"]
        elif scene in ("evaluation", "overflow"):
            kept = weights_of(stock)
        verdict: dict[str, Any] = {"planted": stock.found}
        for action in SCENES[scene]:
            made, _ = self._trainer(f"{scene}-{action}", PlantingTBTrainer, plant, action)
            found = trained(made)
            if action == "log":
                expected, actual = (
                    {**state_of(trainer), "weights": weights_of(trainer)}
                    for trainer in (stock, made)
                )
                found["equal"] = {key: equal(expected[key], actual[key]) for key in expected}
            else:
                found["weights_kept"] = equal(kept, weights_of(made))
            if (scene, action) in RESUMED:
                found["resumed"] = self._resumed(f"{scene}-{action}", action)
            verdict[action] = found
        return verdict

    def _resumed(self, name: str, action: str) -> dict[str, Any]:
        """Goes on from the last checkpoint of a training, without what was planted."""
        made, weights = self._trainer(name, PlantingTBTrainer, Plant(), action)
        checkpoint = get_last_checkpoint(made.args.output_dir)
        made.train(resume_from_checkpoint=checkpoint)
        return {
            "checkpoint": os.path.basename(checkpoint),
            "is_good": equal(weights.copies["start"], self._healthy[SAVED_STEP]),
            "step": made.state.global_step,
            "loss": made.state.log_history[-1]["train_loss"],
            "is_as_healthy": equal(weights.copies[STEPS], self._healthy[STEPS]),
        }

    def _trainer(
        self, name: str, cls: type, plant: Plant, action: str | None = None
    ) -> tuple[Any, WeightsBySteps]:
        """A trainer with its output in a directory of this name."""
        changes = dict(self._changes)
        if plant.scene == "evaluation":
            changes.update(eval_strategy="steps", eval_steps=SAVED_STEP)
        if action is not None:
            changes.update(nonfinite_action=action, telemetry_errors="raise")
        if action in ("stop", "raise"):
            changes.update(save_strategy="steps", save_steps=SAVED_STEP)
        large = plant.scene == "overflow"
        power = LARGE_LOSS_SCALE[self._base] if large else LOSS_SCALE
        if self._is_float16:
            changes["fp16"] = True
        if self._is_float16 and "deepspeed" in changes:
            scaling = {"enabled": True, "initial_scale_power": power, "hysteresis": 1}
            changes["deepspeed"] = {**changes["deepspeed"], "fp16": scaling}
        kind = TrainingArguments if action is None else TBTrainingArguments
        weights = WeightsBySteps()
        args = arguments(kind, self._directory / name, **changes)
        made = planted(cls, args, plant, callbacks=[weights])
        if self._is_float16 and "deepspeed" not in changes:
            # accelerate makes a loss scaler for GPUs, and none for CPUs.
            made.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**power)
            made.accelerator.native_amp = True
        weights.trainer = made
        return made, weights


def trained(made: Any) -> dict[str, Any]:
    """Trains, and returns at which step it ended, what was raised, logged and reported."""
    messages: list[str] = []
    handler = Collected(messages)
    logger = logging.getLogger("tbtrainer")
    logger.addHandler(handler)
    raised = None
    try:
        made.train()
    except NonFiniteError as error:
        raised = error.report
    finally:
        logger.removeHandler(handler)
    files = Path(made.args.output_dir).rglob("health.jsonl")
    return {
        "step": made.state.global_step,
        "raised": raised,
        "warnings": messages,
        # Read before the training is resumed, which takes out what is later than its checkpoint.
        "reports": [json.loads(line) for file in files for line in file.read_text().splitlines()],
    }


def facts_of(made: Any) -> dict[str, Any]:
    """What shows that a mode is on."""
    model = made.model_wrapped
    weights = weights_of(made)
    scaler = made.accelerator.scaler
    return {
        "distributed_type": str(made.accelerator.distributed_type),
        "wrapper": type(model).__name__,
        "elements_here": sum(weight.numel() for weight in weights.values()),
        "stage": model.zero_optimization_stage() if made.is_deepspeed_enabled else None,
        "scaler": None if scaler is None else type(scaler).__name__,
        "dtypes": sorted({str(weight.dtype) for weight in weights.values()}),
    }


def weights_of(made: Any) -> dict[str, Tensor]:
    """Copies of this rank's parts of all weights."""
    for module in made.model_wrapped.modules():
        if isinstance(module, FSDPModule):
            # After a forward pass alone some stay gathered, as after an evaluation.
            module.reshard()
    return {n: local_copy(p) for n, p in made.model_wrapped.named_parameters()}


def processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def gathered(value: Any) -> list[Any]:
    """The values of all ranks."""
    if processes() == 1:
        return [value]
    values: list[Any] = [None] * processes()
    dist.all_gather_object(values, value)
    return values


def main(mode: str, directory: str, *scenes: str) -> None:
    """Runs the scenes and prints the verdict: facts, and by scene what each rank found."""
    if mode.startswith("single"):
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            del os.environ[name]
    if mode.startswith("zero"):
        from deepspeed.accelerator import get_accelerator

        # DeepSpeed refuses float16 on CPUs, where torch computes with it well enough for a test.
        get_accelerator().is_fp16_supported = lambda: True
    allow_fsdp_on_cpu()
    # Each of the trainings collects garbage. Without what was imported it takes no time.
    gc.freeze()
    of_mode = Scenes(mode, Path(directory))
    defaults = FLOAT16_SCENES if mode.endswith("-fp16") else FLOAT32_SCENES
    verdict = {scene: gathered(of_mode.verdict(scene)) for scene in scenes or defaults}
    facts = gathered(of_mode.facts)
    if processes() == 1 or dist.get_rank() == 0:
        print(json.dumps({"facts": facts, **verdict}), flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()
    # Once in a hundred times DeepSpeed's shared memory aborts the interpreter while it ends.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
