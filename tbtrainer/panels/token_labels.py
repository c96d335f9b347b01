"""Evaluations in which each token has one of several classes."""

from typing import Any

from torch import Tensor

from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import PanelBatch, PanelEvaluation
from tbtrainer.panels.tasks import is_whole


def is_token_classification(evaluation: PanelEvaluation) -> bool:
    """Returns whether each token has one of several classes, which the configuration names.

    Logits have the shape (examples, tokens, classes), labels are whole numbers of the shape
    (examples, tokens), and so is the input `input_ids`. A language model has logits and labels of
    these shapes too. It is recognised by its output embeddings and its vocabulary.
    """
    batch = evaluation.first_batch
    if batch is None or batch.logits is None or not is_tensor(batch.labels):
        return False
    logits, labels, tokens = batch.logits, batch.labels, batch.inputs.get("input_ids")
    has_classes = logits.dim() == 3 and logits.is_floating_point() and logits.shape[2] >= 2
    is_labelled = labels.shape == logits.shape[:2] and is_whole(labels)
    has_tokens = is_tensor(tokens) and tokens.shape == labels.shape
    if not (has_classes and is_labelled and has_tokens and len(labels) == batch.size):
        return False
    names = getattr(evaluation.config, "id2label", None) or {}
    problem = getattr(evaluation.config, "problem_type", None)
    is_named = len(names) == logits.shape[2]
    if not is_named or problem not in (None, "single_label_classification"):
        return False
    return not _is_language_model(evaluation, logits.shape[2])


def tokens_as_examples(batch: PanelBatch) -> PanelBatch:
    """Returns a batch of a token classification as one of a classification.

    Its examples are the tokens: logits have the shape (examples · tokens, classes), labels
    (examples · tokens,). It has no inputs. All panels get the same one.
    """
    return batch.computed(_tokens_as_examples)


def _tokens_as_examples(batch: PanelBatch) -> PanelBatch:
    logits = batch.logits
    assert logits is not None
    flat: Tensor = logits.flatten(0, 1)
    outputs = {"logits": flat}
    return PanelBatch(len(flat), {}, outputs, None, batch.labels.flatten(), batch.loss)


def tokens_line(counted: int, sequences: int) -> str:
    """Returns how many tokens a panel shows.

    Args:
        counted: Tokens that have a label and a finite prediction.
        sequences: Examples of the evaluation.

    Example:
        >>> tokens_line(12345, 1000), tokens_line(1, 1)
        ('12,345 tokens of 1,000 examples', '1 token of 1 example')
    """
    tokens = f"{counted:,} token{'' if counted == 1 else 's'}"
    return f"{tokens} of {sequences:,} example{'' if sequences == 1 else 's'}"


def _is_language_model(evaluation: PanelEvaluation, classes: int) -> bool:
    """Returns whether the classes are, or may be, the tokens of a vocabulary."""
    embeddings = getattr(evaluation.model, "get_output_embeddings", None)
    if callable(embeddings) and embeddings() is not None:
        return True
    return classes in (_vocabulary(config) for config in _configs(evaluation.config))


def _configs(config: Any) -> list[Any]:
    """Returns a configuration and that of its text model, which has the vocabulary."""
    inner = getattr(config, "get_text_config", None)
    return [config, inner()] if callable(inner) else [config]


def _vocabulary(config: Any) -> Any:
    return getattr(config, "vocab_size", None)
