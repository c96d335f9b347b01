"""Pairs of predictions and labels, made from the arrays that `Trainer` passes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pairs:
    """Predictions and references for a metric, of shape (elements,).

    Attributes:
        predictions: int64 classes, float values, float64 losses, or texts of dtype object.
        references: int64 classes, values of any real dtype, or texts of dtype object.
        class_count: number of classes of the logits; `None` without logits over classes.
    """

    predictions: NDArray
    references: NDArray
    class_count: int | None = None


def first_output(predictions: Any) -> Any:
    """Returns the first entry of a tuple or list of outputs, which are the logits."""
    return predictions[0] if isinstance(predictions, tuple | list) else predictions


def labels_array(label_ids: Any) -> NDArray:
    """Returns the labels as an array. Several arrays of labels are refused."""
    if isinstance(label_ids, tuple | list):
        if len(label_ids) != 1:
            raise ValueError(
                f"There are {len(label_ids)} arrays of labels, and only one can be compared with "
                "the predictions; set label_names in the training arguments to one name."
            )
        label_ids = label_ids[0]
    if label_ids is None:
        raise ValueError("There are no labels to compare the predictions with.")
    return as_array(label_ids)


def as_array(values: Any) -> NDArray:
    """Returns a tensor, an array or a list as an array. The tensor may be on any device."""
    if isinstance(values, torch.Tensor):
        # NumPy has no bfloat16.
        values = values.float() if values.dtype == torch.bfloat16 else values
        values = values.detach().cpu()
    return np.asarray(values)


def joined(batches: list[Pairs]) -> Pairs:
    """Concatenates the pairs of several batches."""
    return Pairs(
        np.concatenate([batch.predictions for batch in batches]),
        np.concatenate([batch.references for batch in batches]),
        batches[0].class_count,
    )


def _is_integer(values: NDArray) -> bool:
    return np.issubdtype(values.dtype, np.integer) or values.dtype == np.bool_


def class_pairs(scores: NDArray, labels: NDArray, shift: bool) -> Pairs:
    """Turns logits of shape (…, classes) or classes of shape (…), and labels (…), into pairs."""
    if not _is_integer(labels):
        raise ValueError(
            f"The labels are {labels.dtype}, but this metric compares classes. For regression use "
            "'mse' or 'mae'. For several labels per example write your own compute_metrics."
        )
    if labels.ndim == scores.ndim and labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    class_count = None
    if scores.ndim == labels.ndim + 1 and scores.shape[-1] > 1:
        class_count = scores.shape[-1]
        scores = scores.argmax(axis=-1)
    elif not _is_integer(scores):
        raise ValueError(
            f"The predictions are {scores.dtype} of shape {scores.shape} and the labels have shape "
            f"{labels.shape}; this metric needs logits with one more dimension than the labels and "
            "at least two entries in it, or integer classes."
        )
    if shift:
        scores, labels = scores[..., :-1], labels[..., 1:]
    _check_same_shape(scores, labels)
    return Pairs(
        scores.reshape(-1).astype(np.int64), labels.reshape(-1).astype(np.int64), class_count
    )


def value_pairs(scores: NDArray, labels: NDArray) -> Pairs:
    """Turns predicted values, shape (…) or (…, 1), and labels, shape (…), into pairs."""
    if scores.ndim == labels.ndim + 1 and scores.shape[-1] == 1:
        scores = scores[..., 0]
    elif labels.ndim == scores.ndim + 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if scores.shape != labels.shape:
        raise ValueError(
            f"The predictions have shape {scores.shape} and the labels {labels.shape}; this metric "
            "compares one value with one label. For logits over classes use 'accuracy' or 'f1'."
        )
    return Pairs(scores.reshape(-1), labels.reshape(-1))


def loss_pairs(scores: NDArray, labels: NDArray, shift: bool, ignore_index: int) -> Pairs:
    """Turns logits or losses per token, and labels of shape (examples, tokens), into pairs.

    There may be one loss fewer than labels per example, as `next_token_losses` returns them.
    """
    if scores.ndim == labels.ndim + 1:
        if shift:
            scores, labels = scores[:, :-1], labels[:, 1:]
        # One example at a time, because all log-probabilities in float64 may not fit in memory.
        losses = [
            _negative_log_likelihood(
                one_scores, np.where(one_labels == ignore_index, 0, one_labels)
            )
            for one_scores, one_labels in zip(scores, labels, strict=True)
        ]
        scores = np.stack(losses) if losses else np.zeros(labels.shape)
    elif scores.ndim == labels.ndim == 2 and scores.shape[1] == labels.shape[1] - 1:
        labels = labels[:, 1:]
    if _is_integer(scores):
        raise ValueError(
            "Perplexity needs losses or logits, but the predictions are integers; use "
            "preprocess_logits_for_metrics=next_token_losses."
        )
    _check_same_shape(scores, labels)
    return Pairs(scores.reshape(-1).astype(np.float64), labels.reshape(-1).astype(np.int64))


def text_pairs(
    scores: NDArray, labels: NDArray, tokenizer: Any, shift: bool, ignore_index: int
) -> Pairs:
    """Turns generated tokens or logits, and labels of shape (examples, tokens), into texts.

    Generated tokens may be more or fewer than the labels. With logits of shape (examples, tokens,
    vocabulary), or with `shift`, there is a prediction for each label, and those of labels that are
    left out are left out, too.

    Args:
        scores: Tokens of shape (examples, …), or logits.
        labels: Tokens of the references.
        tokenizer: Its `batch_decode` makes texts of tokens.
        shift: Whether a prediction is that of the label at the next position.
        ignore_index: Tokens of this value are left out.
    """
    if labels.ndim != 2 or not _is_integer(labels):
        raise ValueError(
            f"The labels are {labels.dtype} of shape {labels.shape}; a metric of texts needs "
            "tokens of shape (examples, tokens)."
        )
    has_logits = scores.ndim == 3
    if has_logits:
        scores = scores.argmax(axis=-1)
    if scores.ndim != 2 or not _is_integer(scores) or len(scores) != len(labels):
        raise ValueError(
            f"The predictions are {scores.dtype} of shape {scores.shape} and the labels have shape "
            f"{labels.shape}; a metric of texts needs logits, or the generated tokens of each "
            "example, as with predict_with_generate=True."
        )
    if shift:
        scores, labels = scores[:, :-1], labels[:, 1:]
    if has_logits or shift:
        _check_same_shape(scores, labels)
        scores = np.where(labels == ignore_index, ignore_index, scores)
    return Pairs(
        _decoded(scores, tokenizer, ignore_index), _decoded(labels, tokenizer, ignore_index)
    )


def _decoded(tokens: NDArray, tokenizer: Any, ignore_index: int) -> NDArray:
    """Returns the text of each row without special tokens, as an array of objects."""
    # `Trainer` fills rows up with -100, whatever is ignored in the labels.
    rows = [row[(row != ignore_index) & (row >= 0)].tolist() for row in tokens]
    texts = np.empty(len(rows), dtype=object)
    texts[:] = [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]
    return texts


def _negative_log_likelihood(logits: NDArray, classes: NDArray) -> NDArray:
    """Returns -log softmax(logits)[class], logits of shape (tokens, classes), in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(shifted, classes[:, None], axis=-1)[:, 0]
    losses: NDArray = np.log(np.exp(shifted).sum(axis=-1)) - chosen
    return losses


def _check_same_shape(scores: NDArray, labels: NDArray) -> None:
    if scores.shape != labels.shape:
        raise ValueError(
            f"The predictions have shape {scores.shape} and the labels {labels.shape}; there has "
            "to be one prediction for each label."
        )
