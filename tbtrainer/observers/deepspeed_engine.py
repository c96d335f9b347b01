"""DeepSpeed's engine: the moment before its optimizer step, and the loss scale of its gradients."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def engine_loss_scale(engine: Any) -> Tensor | None:
    """Returns what DeepSpeed's gradients are multiplied by while `engine.step` is called.

    Args:
        engine: A `DeepSpeedEngine`.

    Returns:
        The loss scale as a scalar tensor on the CPU, known without waiting for a device; `None`
        where gradients are not scaled.
    """
    optimizer = getattr(engine, "optimizer", None)
    # ZeRO's optimizers have the one, the float16 optimizers without ZeRO the other.
    scale = getattr(optimizer, "loss_scale", None)
    if scale is None:
        scale = getattr(getattr(optimizer, "loss_scale_config", None), "cur_scale", None)
    if scale is None or float(scale) == 1.0:
        return None
    return torch.tensor(float(scale), dtype=torch.float64, device="cpu")


@contextmanager
def observed_engine_step(engine: Any, observe: Callable[[], None]) -> Iterator[None]:
    """Calls `observe` before every optimizer step of a DeepSpeed engine.

    accelerate runs the backward pass and the step in one call, and no hook lies between them. At
    the moment `observe` is called the gradients are accumulated and reduced over the ranks, not
    yet clipped, and multiplied by `engine_loss_scale`.

    Args:
        engine: A `DeepSpeedEngine`. Its `step` is wrapped on this instance, and restored in the
            end.
        observe: What is called. An error of it ends the step.
    """
    step = getattr(engine, "step", None)
    if step is None or not hasattr(engine, "is_gradient_accumulation_boundary"):
        logger.warning(
            "Gradients under DeepSpeed are not shown: %s has no `step` to observe. Parameters "
            "and scalars are.",
            type(engine).__name__,
        )
        yield
        return

    def observed_step(*args: Any, **kwargs: Any) -> Any:
        # Older accelerate calls `step` after every micro-batch.
        if engine.is_gradient_accumulation_boundary():
            observe()
        return step(*args, **kwargs)

    was_wrapped = "step" in vars(engine)
    engine.step = observed_step
    try:
        yield
    finally:
        # Unless somebody else has wrapped it since, in which case theirs calls this one.
        if vars(engine).get("step") is observed_step:
            del engine.step
            if was_wrapped:
                engine.step = step
