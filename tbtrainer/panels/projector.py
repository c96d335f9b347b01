"""`Projector`: a vector per example in TensorBoard's Projector."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from tbtrainer.panels.classified import classified
from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.tasks import class_label, is_regression, is_single_label
from tbtrainer.panels.token_texts import has_texts, text_of, text_tokens
from tbtrainer.records import Embedding
from tbtrainer.redaction import redacted_text

# Outputs with one vector per example, and with one per token or per place of an image.
_VECTORS = ("sentence_embedding", "embeddings", "pooler_output")
_STATES = ("last_hidden_state", "hidden_states", "encoder_last_hidden_state")
# The largest float16.
_LARGEST = 65504.0
# Tokens of a text that are kept, and characters of it that are shown.
_TOKENS, _CHARACTERS = 32, 60


class Projector(Panel):
    """Shows a vector per example in TensorBoard's Projector, with label, prediction and text.

    The vector is the first of these that the model returns: `sentence_embedding`, `embeddings`,
    `pooler_output`; the mean over tokens, without padding, or over the places of an image, of
    `last_hidden_state`, of the last of `hidden_states`, or of `encoder_last_hidden_state`; the
    logits. A classifier of transformers returns hidden states if its configuration has
    `output_hidden_states=True`, and else logits only.

    At most 1,000 examples are shown, and at most 2 MB of vectors in float16.
    """

    name = "projector"
    most_examples = 1000
    on_request = True

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether the model returns a vector per example, or what it is a mean of."""
        batch = evaluation.first_batch
        return batch is not None and _vectors(batch) is not None

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept | None:
        """Returns the vectors of the batch, with what they are labelled by."""
        vectors = _vectors(batch)
        if vectors is None:
            return None
        kept = {"vector": vectors.to(torch.float32).clamp(-_LARGEST, _LARGEST).to(torch.float16)}
        # An evaluation has no first batch after `applies`.
        here = replace(evaluation, first_batch=batch)
        if is_single_label(here):
            found = classified(batch)
            kept["label"] = torch.where(found.counted, found.labels, -1)
            kept["prediction"] = found.predictions
        elif is_regression(here):
            assert batch.logits is not None
            kept["label"] = batch.labels.reshape(-1).to(torch.float32)
            kept["prediction"] = batch.logits.reshape(-1).to(torch.float32)
        if has_texts(batch.inputs, evaluation.processing_class):
            kept["tokens"] = text_tokens(batch.inputs, evaluation.processing_class)[:, :_TOKENS]
        return Kept(examples=kept)

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Embedding]:
        """Returns the vectors whose values are all finite; nothing if there are none."""
        vectors = kept.examples.get("vector", np.zeros((0, 1))).astype(np.float32)
        shown = np.flatnonzero(np.isfinite(vectors).all(axis=1))
        if len(shown) == 0:
            return []
        labels = [_label(kept, int(row), evaluation) for row in shown]
        return [Embedding(evaluation.tag(self.name), vectors[shown], labels)]


def _vectors(batch: PanelBatch) -> Tensor | None:
    """Returns a vector per example, floating, shape (examples, dimensions), if there is one."""
    outputs = batch.outputs if isinstance(batch.outputs, Mapping) else {}
    for name in _VECTORS:
        vectors = outputs.get(name)
        # Convolutional networks pool to the shape (examples, dimensions, 1, 1).
        if _is_per_example(vectors, batch) and vectors[:1].numel() == vectors.shape[1]:
            return vectors.flatten(1)
    for name in _STATES:
        states = outputs.get(name)
        states = states[-1] if isinstance(states, tuple) and states else states
        if _is_per_example(states, batch) and states.dim() in (3, 4):
            return _mean(states, batch.inputs.get("attention_mask"))
    logits = batch.logits
    is_vector = _is_per_example(logits, batch) and logits.dim() == 2 and logits.shape[1] >= 2
    return logits if is_vector else None


def _is_per_example(value: Any, batch: PanelBatch) -> TypeGuard[Tensor]:
    return (
        is_tensor(value)
        and value.is_floating_point()
        and value.dim() >= 2
        and value.shape[0] == batch.size
    )


def _mean(states: Tensor, mask: Any) -> Tensor:
    """Returns the mean of states over tokens or over the places of an image.

    Args:
        states: Shape (examples, tokens, dimensions) or (examples, dimensions, height, width).
        mask: Which tokens are no padding, shape (examples, tokens). Others are ignored.
    """
    states = states.to(torch.float32)
    if states.dim() == 4:
        return states.mean(dim=(2, 3))
    if not is_tensor(mask) or mask.shape != states.shape[:2]:
        return states.mean(dim=1)
    is_text = (mask != 0)[:, :, None]
    return torch.where(is_text, states, 0.0).sum(dim=1) / is_text.sum(dim=1).clamp(min=1)


def _label(kept: KeptOfAllRanks, row: int, evaluation: PanelEvaluation) -> str:
    """Returns label, prediction if it is another one, and the beginning of the text."""
    parts = []
    if "label" in kept.examples:
        parts.append(
            _outcome(kept.examples["label"][row], kept.examples["prediction"][row], evaluation)
        )
    if "tokens" in kept.examples:
        text = text_of(kept.examples["tokens"][row], evaluation.processing_class)
        # Before it is cut, because a part of a secret is not recognised.
        text = " ".join(redacted_text(text).split())
        parts.append(text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}…")
    return " · ".join(parts) or str(row)


def _outcome(label: Any, prediction: Any, evaluation: PanelEvaluation) -> str:
    if isinstance(label, np.floating):
        return f"{label:.4g} → {prediction:.4g}"
    if label == prediction:
        return class_label(evaluation, int(label))
    true = "no label" if label < 0 else class_label(evaluation, int(label))
    return f"{true} → {class_label(evaluation, int(prediction))}"
