"""The loss of every token of a batch of language modelling, on the device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from tbtrainer.panels.label_log_probs import label_log_probs
from tbtrainer.panels.language_tasks import is_encoder_decoder, label_shift
from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import PanelBatch, PanelEvaluation

# Logits that are taken at once, as float32. On a CPU they fit its cache; an accelerator takes as
# long for a few small ones as for one large one.
_CPU_BYTES = 2**22
_ACCELERATOR_BYTES = 2**26
_IGNORED = -100


@dataclass(frozen=True)
class TokenLosses:
    """The loss of each label of a batch. All tensors have the shape (examples, tokens).

    Attributes:
        loss: Minus the logarithm of the label's probability, float32 or float64; 0 where it is not
            counted.
        counted: bool: false where there is no label, such as -100, where no logits predict it, or
            where the loss is NaN or infinite.
        labelled: bool: as `counted`, but also where the loss is not finite.
        labels: int64.
        shift: By how many places the labels are ahead of the logits: those of the label at place
            `i` are at place `i - shift`.
    """

    loss: Tensor
    counted: Tensor
    labelled: Tensor
    labels: Tensor
    shift: int


def token_losses(batch: PanelBatch, evaluation: PanelEvaluation) -> TokenLosses:
    """Returns the losses of a batch of an evaluation for which `is_language_model` is true.

    They are computed once for all panels.
    """
    shift = label_shift(evaluation)
    assert shift is not None
    return batch.computed(_token_losses, shift)


def _token_losses(batch: PanelBatch, shift: int) -> TokenLosses:
    assert is_tensor(batch.labels)
    if (known := label_log_probs(batch)) is not None:
        return _of_log_probs(batch.labels, *known)
    logits = batch.logits
    assert logits is not None
    labels = batch.labels.to(logits.device, torch.int64)
    # What a loss takes for a label. One that is no token would end the process on a GPU.
    labelled = (labels >= 0) & (labels < logits.shape[2])
    labelled[:, :shift] = False
    targets = torch.where(labelled, labels, _IGNORED)
    ends = targets.new_full((len(targets), shift), _IGNORED)
    loss = _cross_entropies(logits, torch.cat([targets[:, shift:], ends], dim=1))
    loss = torch.cat([torch.zeros_like(loss[:, :shift]), loss[:, : loss.shape[1] - shift]], dim=1)
    counted = labelled & loss.isfinite()
    return TokenLosses(torch.where(counted, loss, 0.0), counted, labelled, labels, shift)


def _of_log_probs(labels: Tensor, log_probs: Tensor, labelled: Tensor) -> TokenLosses:
    """Returns the losses of labels whose log-probabilities the model returned."""
    labels = labels.to(log_probs.device, torch.int64)
    loss = pad(-log_probs.to(torch.promote_types(log_probs.dtype, torch.float32)), (1, 0))
    labelled = pad(labelled, (1, 0)) & (labels >= 0)
    counted = labelled & loss.isfinite()
    return TokenLosses(torch.where(counted, loss, 0.0), counted, labelled, labels, 1)


def _cross_entropies(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the loss at each place, shape (examples, tokens), without a copy of all logits.

    Args:
        logits: Shape (examples, tokens, vocabulary).
        targets: int64, shape (examples, tokens); -100 for none, whose loss is 0.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    limit = _CPU_BYTES if logits.device.type == "cpu" else _ACCELERATOR_BYTES
    tokens = max(1, limit // (logits.shape[2] * wide.itemsize))
    examples = max(1, tokens // logits.shape[1])
    found = torch.zeros(targets.shape, dtype=wide, device=logits.device)
    for first in range(0, logits.shape[0], examples):
        for begin in range(0, logits.shape[1], tokens):
            part = slice(first, first + examples), slice(begin, begin + tokens)
            rows = logits[part].to(wide).flatten(0, 1)
            losses = cross_entropy(rows, targets[part].flatten(), reduction="none")
            found[part] = losses.view_as(found[part])
    return found


def text_mask(batch: PanelBatch, evaluation: PanelEvaluation, shape: torch.Size) -> Tensor | None:
    """Returns which places of the labels' sequences are no padding, bool; `None` if not known.

    Args:
        batch: The batch.
        evaluation: The evaluation.
        shape: Of the labels, (examples, tokens). The masks of an encoder are about other sequences.
    """
    mask = batch.inputs.get("attention_mask")
    if is_encoder_decoder(evaluation.config) or not is_tensor(mask) or mask.shape != shape:
        return None
    return mask != 0
