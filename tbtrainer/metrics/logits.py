"""Functions for `preprocess_logits_for_metrics`, which reduce logits before they are gathered."""

from typing import Any

import torch

from tbtrainer.metrics.pairs import first_output


def predicted_classes(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Reduces logits to classes on the device, before `Trainer` gathers them.

    The evaluation then keeps one integer per label in memory, instead of one float per class.

    ```python
    Trainer(..., preprocess_logits_for_metrics=predicted_classes,
            compute_metrics=make_compute_metrics("accuracy", next_token=True))
    ```

    Args:
        logits: Shape (…, classes), or a tuple whose first entry they are.
        labels: Not used.

    Returns:
        Index of the largest logit. int64, shape (…).
    """
    classes: torch.Tensor = first_output(logits).argmax(dim=-1)
    return classes


def next_token_losses(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Reduces a causal language model's logits to one loss per token, on the device.

    Use it with `make_compute_metrics("perplexity")`. The evaluation then keeps one float per token
    in memory, instead of one per token and entry of the vocabulary.

    Args:
        logits: Shape (examples, tokens, vocabulary), or a tuple whose first entry they are.
        labels: int64, shape (examples, tokens); -100 for a token that is left out.

    Returns:
        Losses of the tokens from the second on. float32, shape (examples, tokens - 1); 0 for a
        token that is left out.
    """
    # One example at a time, because a float32 copy of all logits may not fit on the device.
    losses = [
        torch.nn.functional.cross_entropy(
            scores[:-1].float(), tokens[1:], ignore_index=-100, reduction="none"
        )
        for scores, tokens in zip(first_output(logits), labels, strict=True)
    ]
    return torch.stack(losses)
