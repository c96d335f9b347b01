"""What is known of the optimizer of a training."""

from typing import Any

# Optimizers that change each parameter during the backward pass, before its gradient is complete
# everywhere: of transformers (GaLore, APOLLO with `layerwise`) and of lomo-optim.
_STEPS_IN_BACKWARD = frozenset({"LayerWiseDummyOptimizer", "Lomo", "AdaLomo"})


def inner_optimizer(optimizer: Any) -> Any:
    """Returns the optimizer that accelerate has wrapped.

    Args:
        optimizer: As a trainer has it; `AcceleratedOptimizer.optimizer` is the one inside
            (accelerate 1.3 to 1.15).
    """
    return getattr(optimizer, "optimizer", optimizer)


def steps_in_backward(optimizer: Any) -> str | None:
    """Returns the name of an optimizer that steps in the backward pass; `None` of any other.

    Args:
        optimizer: As a trainer has it.
    """
    name = type(inner_optimizer(optimizer)).__name__
    return name if name in _STEPS_IN_BACKWARD else None
