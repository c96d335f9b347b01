"""Whether an evaluation is language modelling, and which logits predict which labels."""

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from tbtrainer.panels.label_log_probs import label_log_probs
from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import PanelEvaluation

# Causal models that do not shift the labels themselves, and those with several logits per position
# (transformers 4.57 to 5.24).
_UNUSUAL = frozenset(
    {
        *("BartForCausalLM", "BigBirdPegasusForCausalLM", "BlenderbotForCausalLM"),
        *("BlenderbotSmallForCausalLM", "CpmAntForCausalLM", "FlaubertWithLMHeadModel"),
        *("MBartForCausalLM", "MarianForCausalLM", "MusicgenForCausalLM"),
        *("MusicgenMelodyForCausalLM", "MvpForCausalLM", "PLBartForCausalLM"),
        *("PegasusForCausalLM", "ProphetNetForCausalLM", "TrOCRForCausalLM"),
        *("WhisperForCausalLM", "XLMWithLMHeadModel", "XLNetLMHeadModel"),
    }
)
_CAUSAL = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
_MASKED = frozenset(MODEL_FOR_MASKED_LM_MAPPING_NAMES.values())
# Where wrappers keep the model, by the names of their classes.
_WRAPPERS = {
    "DataParallel": "module",
    "DeepSpeedEngine": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "OptimizedModule": "_orig_mod",
}


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the model inside of wrappers, such as those of PEFT and `torch.compile`."""
    while True:
        inner = model._modules.get(_WRAPPERS.get(type(model).__name__, ""))
        base = getattr(model, "get_base_model", None)
        if inner is None and callable(base):
            inner = base()
        if not isinstance(inner, nn.Module) or inner is model:
            return model
        model = inner


def vocabulary_size(config: Any) -> int | None:
    """Returns how many tokens the configuration of a model has; `None` if it does not say."""
    size = getattr(config, "vocab_size", None)
    if size is None and callable(getattr(config, "get_text_config", None)):
        size = getattr(config.get_text_config(decoder=True), "vocab_size", None)
    return size if isinstance(size, int) else None


def is_encoder_decoder(config: Any) -> bool:
    """Returns whether a model has an encoder for its inputs and a decoder for its labels."""
    return bool(getattr(config, "is_encoder_decoder", False))


def label_shift(evaluation: PanelEvaluation) -> int | None:
    """Returns by how many places the labels are ahead of the logits that predict them.

    Causal models take labels that are equal to their inputs, and shift them by one. Masked models
    and encoder-decoders do not. A model of the user's own counts as what `transformers` takes it
    for by the name of its class (`loss_type`), which decides its loss, too.

    Returns:
        0 or 1; `None` if it is not known.
    """
    if is_encoder_decoder(evaluation.config):
        return 0
    model = unwrapped(evaluation.model)
    names = {kind.__name__ for kind in type(model).__mro__}
    if names & _UNUSUAL:
        return None
    loss = getattr(model, "loss_type", None)
    if names & _MASKED or loss == "ForMaskedLM":
        return 0
    if names & _CAUSAL or loss in ("ForCausalLM", "ForConditionalGeneration"):
        return 1
    return None


def is_language_model(evaluation: PanelEvaluation) -> bool:
    """Returns whether tokens are predicted at each place of a sequence.

    Logits have the shape (examples, tokens, vocabulary), labels are whole numbers of the shape
    (examples, tokens). Logits that are divided over ranks are left out. In the place of logits the
    model may return the log-probabilities of the labels; see `label_log_probs`.
    """
    batch, size = evaluation.first_batch, vocabulary_size(evaluation.config)
    # The labels of a sequence that is divided over ranks come already shifted (accelerate 1.15).
    if batch is None or size is None or "shift_labels" in batch.inputs:
        return False
    logits, labels = batch.logits, batch.labels
    if not is_sequence(labels) or labels.shape[1] < 2:
        return False
    if label_log_probs(batch) is not None:
        return label_shift(evaluation) == 1
    if logits is None or hasattr(logits, "to_local"):
        return False
    fits = logits.is_floating_point() and logits.shape == (*labels.shape, size)
    return fits and label_shift(evaluation) is not None


def is_sequence(tokens: Any) -> TypeGuard[Tensor]:
    """Returns whether a value is a tensor of tokens, of the shape (examples, tokens)."""
    return is_tensor(tokens) and tokens.dim() == 2 and _is_whole(tokens)


def _is_whole(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
