"""`TokenClasses`: precision, recall and F1 of each class of a token classification."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbtrainer.panels.classified import classified
from tbtrainer.panels.counting import occurrences
from tbtrainer.panels.markdown import cell, table
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.scores import label_scores, score_row
from tbtrainer.panels.spans import OUTSIDE, SpanScheme, span_counts
from tbtrainer.panels.tasks import class_labels
from tbtrainer.panels.token_labels import (
    is_token_classification,
    tokens_as_examples,
    tokens_line,
)
from tbtrainer.records import Text
from tbtrainer.redaction import redacted_name

MOST_ROWS = 30
# Three counters per class, within the bound of a panel's totals.
MOST_CLASSES = 80_000
# With more classes spans are not scored, because reading the names takes time at each batch.
MOST_SPAN_CLASSES = 1_000
_SCORES = ("precision", "recall", "F1")


class TokenClasses(Panel):
    """Shows tables of precision, recall, F1 and support of each class, the worst F1 first.

    One table counts tokens. The outside class `O` is its last row, and is not in the average.
    If the classes are named like `B-place` and `I-place`, the first table counts spans: a span is
    right if its type, first token and last token are right, as in seqeval. A score that is 0 / 0
    is shown as a dash.
    """

    name = "token_classes"

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether each token has one of several classes."""
        if not is_token_classification(evaluation):
            return False
        assert evaluation.first_batch is not None and evaluation.first_batch.logits is not None
        return evaluation.first_batch.logits.shape[2] <= MOST_CLASSES

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns the counts of the batch."""
        found = classified(tokens_as_examples(batch))
        totals = {
            "labels": occurrences(found.labels, found.counted, found.classes),
            "predictions": occurrences(found.predictions, found.counted, found.classes),
            "correct": occurrences(found.labels, found.correct, found.classes),
        }
        scheme = _span_scheme(evaluation, found.classes)
        if scheme is not None:
            labels, predictions, counted = (
                tensor.reshape(batch.labels.shape)
                for tensor in (found.labels, found.predictions, found.counted)
            )
            totals |= span_counts(labels, predictions, counted, scheme)
        return Kept(totals=totals)

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Text]:
        """Returns a card with the tables; none if no token is counted."""
        counted = int(kept.totals["labels"].sum())
        if counted == 0:
            return []
        parts = [f"{tokens_line(counted, kept.seen)}."]
        scheme = _span_scheme(evaluation, len(kept.totals["labels"]))
        if scheme is not None:
            parts += _spans_part(kept.totals, scheme)
        parts += _tokens_part(kept.totals, evaluation)
        return [Text(evaluation.tag(self.name), "\n\n".join(parts))]


def _span_scheme(evaluation: PanelEvaluation, classes: int) -> SpanScheme | None:
    if classes > MOST_SPAN_CLASSES:
        return None
    return SpanScheme.of([evaluation.class_name(index) for index in range(classes)])


def _spans_part(totals: Mapping[str, NDArray[Any]], scheme: SpanScheme) -> list[str]:
    counts = np.stack([totals[name] for name in ("correct_spans", "predicted_spans", "spans")])
    found = _worst_first(counts)
    names = [redacted_name(scheme.types[index]) for index in found[:MOST_ROWS]]
    return [
        "**Spans** whose type, first and last token are right, as in seqeval, the worst first:",
        table(("type", *_SCORES, "spans"), _rows(counts, found, names)),
        *_left_out(len(found), len(scheme.types)),
    ]


def _tokens_part(totals: Mapping[str, NDArray[Any]], evaluation: PanelEvaluation) -> list[str]:
    counts = np.stack([totals[name] for name in ("correct", "predictions", "labels")])
    classes = range(counts.shape[1])
    outside = [index for index in classes if evaluation.class_name(index) == OUTSIDE]
    inside = np.delete(counts, outside, axis=1)
    found = _worst_first(inside)
    numbers = np.delete(np.array(classes), outside)[found[:MOST_ROWS]]
    rows = _rows(inside, found, class_labels(evaluation, numbers.tolist()))
    for index in outside:
        scores = label_scores(*counts[:, [index]])[0]
        rows.append(score_row(f"{OUTSIDE} (outside, not averaged)", scores, counts[2, index]))
    return [
        "**Tokens**, the worst first:",
        table(("class", *_SCORES, "tokens"), rows),
        *_left_out(len(found), inside.shape[1]),
    ]


def _worst_first(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Returns the classes that occur or are predicted, by their F1, and of equal ones by support.

    Args:
        counts: Correct ones, predictions and labels, shape (3, classes).
    """
    order = np.lexsort((-counts[2], label_scores(*counts)[:, 2]))
    return np.asarray(order[(counts[1] + counts[2])[order] > 0])


def _rows(counts: NDArray[Any], found: NDArray[np.int64], names: Sequence[str]) -> list[list[str]]:
    """Returns the average and a row for each name, which are those of the first classes found."""
    total = counts.sum(axis=1, keepdims=True)
    rows = [score_row("**micro average**", label_scores(*total)[0], total[2, 0])]
    for name, index in zip(names, found, strict=False):
        scores = label_scores(*counts[:, [index]])[0]
        rows.append(score_row(cell(name, 40), scores, counts[2, index]))
    return rows


def _left_out(found: int, classes: int) -> list[str]:
    """Returns sentences about the classes that have no row."""
    sentences = []
    if found > MOST_ROWS:
        sentences.append(f"{found - MOST_ROWS:,} better ones are not shown.")
    if found < classes:
        sentences.append(f"{classes - found:,} of {classes:,} neither occur nor are predicted.")
    return [" ".join(sentences)] if sentences else []
