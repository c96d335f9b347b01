"""Functions for `preprocess_logits_for_metrics`: logits made small before they are collected."""

from typing import Any

import torch

from tbtrainer.metrics.pairs import first_output


def predicted_classes(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Reduces logits to classes on the device, before `Trainer` collects them.

    Evaluation then holds one integer per label in memory, not one float per class.

    ```python
    Trainer(..., preprocess_logits_for_metrics=predicted_classes,
            compute_metrics=make_compute_metrics("accuracy", next_token=True))
    ```

    Args:
        logits: Shape (…, classes), or a tuple with them first.
        labels: Not looked at.

    Returns:
        int64, shape (…).
    """
    classes: torch.Tensor = first_output(logits).argmax(dim=-1)
    return classes


def next_token_losses(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Reduces a causal language model's logits to one loss per token, on the device.

    The partner of `make_compute_metrics("perplexity")`: evaluation holds one float per token in
    memory, not one per token and word of the vocabulary.

    Args:
        logits: Shape (examples, tokens, vocabulary), or a tuple with them first.
        labels: int64, shape (examples, tokens); -100 where a token does not count.

    Returns:
        Losses of the tokens from the second on, float32, shape (examples, tokens - 1); 0 where the
        token does not count.
    """
    # One example at a time: a second copy of all logits in float32 may not fit on the device.
    losses = [
        torch.nn.functional.cross_entropy(
            scores[:-1].float(), tokens[1:], ignore_index=-100, reduction="none"
        )
        for scores, tokens in zip(first_output(logits), labels, strict=True)
    ]
    return torch.stack(losses)
