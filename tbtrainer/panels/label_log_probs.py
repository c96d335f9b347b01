"""Outputs of a fused language-model head, which have log-probabilities in the place of logits."""

from collections.abc import Mapping

from torch import Tensor

from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import PanelBatch


def label_log_probs(batch: PanelBatch) -> tuple[Tensor, Tensor] | None:
    """Returns the log-probability of each label but the first one of every sequence.

    A fused head computes them without ever having all logits in memory. TRL gives one to the models
    that it trains; its output is called `FusedCausalLMOutput` (TRL 1.16).

    Returns:
        Log-probabilities, floating, and which of the labels are counted, bool. Both have the shape
        (examples, tokens - 1). `None` if the outputs are of another kind.
    """
    outputs = batch.outputs
    if not isinstance(outputs, Mapping) or not is_tensor(batch.labels) or batch.labels.dim() != 2:
        return None
    log_probs, counted = outputs.get("log_probs"), outputs.get("label_mask")
    if not is_tensor(log_probs) or not is_tensor(counted):
        return None
    examples, tokens = batch.labels.shape
    fits = log_probs.shape == counted.shape == (examples, tokens - 1)
    return (log_probs, counted.bool()) if fits and log_probs.is_floating_point() else None
