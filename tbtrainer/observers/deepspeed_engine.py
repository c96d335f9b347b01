"""DeepSpeed's engine: a call before its optimizer step, and its loss scale."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def engine_loss_scale(engine: Any) -> Tensor | None:
    """Returns the loss scale of DeepSpeed's gradients before `engine.step`.

    Args:
        engine: A `DeepSpeedEngine`.

    Returns:
        The loss scale, a scalar tensor on the CPU; `None` if the gradients are not scaled. It is a
        number on the host, so nothing waits for a device.
    """
    optimizer = getattr(engine, "optimizer", None)
    # ZeRO's optimizers have `loss_scale`, and the float16 optimizers without ZeRO the other.
    scale = getattr(optimizer, "loss_scale", None)
    if scale is None:
        scale = getattr(getattr(optimizer, "loss_scale_config", None), "cur_scale", None)
    if scale is None or float(scale) == 1.0:
        return None
    return torch.tensor(float(scale), dtype=torch.float64, device="cpu")


@contextmanager
def observed_engine_step(engine: Any, observe: Callable[[], bool]) -> Iterator[None]:
    """Calls `observe` before every optimizer step of a DeepSpeed engine.

    accelerate runs the backward pass and the optimizer step in one call, without a hook between
    them. When `observe` is called, the gradients are accumulated, reduced over the ranks, not yet
    clipped, and still multiplied by `engine_loss_scale`.

    Args:
        engine: A `DeepSpeedEngine`. The `step` of this instance is wrapped, and restored at the end
            of the context.
        observe: The function to call. It returns whether the step is to be taken. An exception that
            it raises is raised by `engine.step`.
    """
    step = getattr(engine, "step", None)
    if step is None or not hasattr(engine, "is_gradient_accumulation_boundary"):
        logger.warning(
            "Gradients under DeepSpeed are not shown: %s has no method `step` to observe. "
            "Parameters and scalars are shown.",
            type(engine).__name__,
        )
        yield
        return

    def observed_step(*args: Any, **kwargs: Any) -> Any:
        # Older versions of accelerate call `step` after every micro-batch.
        if engine.is_gradient_accumulation_boundary() and not observe():
            return None
        return step(*args, **kwargs)

    was_wrapped = "step" in vars(engine)
    engine.step = observed_step
    try:
        yield
    finally:
        # If something else has wrapped `step` since, that wrapper stays, and calls this one.
        if vars(engine).get("step") is observed_step:
            del engine.step
            if was_wrapped:
                engine.step = step
