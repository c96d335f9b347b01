"""Spans of tokens by the labels B-, I-, E- and S-, counted on the device as seqeval counts them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tbtrainer.panels.columns import on_device
from tbtrainer.panels.counting import occurrences

OUTSIDE = "O"
_SPAN_LABEL = re.compile(r"([BIES])(?:-(.*))?", re.DOTALL)


@dataclass(frozen=True)
class SpanScheme:
    """What each class says about spans. The last entry of each tuple stands for no class.

    Attributes:
        types: The types of spans, without their prefix, sorted; `_` for a label without a type.
        type_of: Index of the type of each class, -1 for the outside class. (classes + 1) numbers.
        opens: Whether a span of the class may continue at the next token, 0 or 1: B and I.
        follows: Whether the class may continue the span of the token before: I and E.
    """

    types: tuple[str, ...]
    type_of: tuple[int, ...]
    opens: tuple[int, ...]
    follows: tuple[int, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> "SpanScheme | None":
        """Returns the scheme of classes, or `None` if their names do not describe spans.

        Each name is `O`, or begins with `B-`, `I-`, `E-` or `S-`, or is one of these letters alone.
        At least one is B or I.

        Args:
            names: A name for each class.

        Example:
            >>> SpanScheme.of(["O", "B-place", "I-place"]).types
            ('place',)
            >>> SpanScheme.of(["NOUN", "VERB"]) is None
            True
        """
        parts = [("", "") if n == OUTSIDE else _prefix_and_type(n) for n in names]
        if None in parts or not {"B", "I"} & {part[0] for part in parts if part}:
            return None
        known = [part for part in parts if part is not None] + [("", "")]
        types = sorted({kind for prefix, kind in known if prefix})
        return cls(
            tuple(types),
            tuple(types.index(kind) if prefix else -1 for prefix, kind in known),
            tuple(int(prefix in ("B", "I")) for prefix, _ in known),
            tuple(int(prefix in ("I", "E")) for prefix, _ in known),
        )


def _prefix_and_type(name: str) -> tuple[str, str] | None:
    found = _SPAN_LABEL.fullmatch(name)
    return None if found is None else (found[1], found[2] or "_")


@dataclass(frozen=True)
class _Spans:
    """Spans of some sequences. All tensors have the shape (sequences, tokens).

    Attributes:
        starts: Whether a span begins at the token, bool.
        end: Place of the last token of the span at the token, int64.
        type: Index of the type of the span at the token, -1 outside of spans, int64.
    """

    starts: Tensor
    end: Tensor
    type: Tensor


def span_counts(
    labels: Tensor, predictions: Tensor, counted: Tensor, scheme: SpanScheme
) -> dict[str, Tensor]:
    """Returns what to add up over batches: counts of spans by type, int64, shape (types,).

    A span is predicted correctly if type, first and last token are those of the label. The
    definition is that of `seqeval.metrics.classification_report` (seqeval 1.2.2) in its default
    mode, where tokens that are not counted are taken out of the sequences.

    Args:
        labels: Classes, int64, shape (sequences, tokens).
        predictions: Classes, of the same dtype and shape.
        counted: Which tokens have a label and a prediction, bool, of the same shape.
        scheme: What the classes say about spans.

    Returns:
        "spans" by the labels, "predicted_spans", and "correct_spans".
    """
    kinds = on_device(np.array([scheme.type_of, scheme.opens, scheme.follows]), labels.device)
    # Tokens that are counted come first, in their order. The others are of no class.
    order = torch.sort(~counted, dim=1, stable=True).indices
    no_class = len(scheme.type_of) - 1
    true = _spans(torch.where(counted, labels, no_class).gather(1, order), kinds)
    found = _spans(torch.where(counted, predictions, no_class).gather(1, order), kinds)
    correct = true.starts & found.starts & (true.type == found.type) & (true.end == found.end)
    return {
        "spans": occurrences(true.type, true.starts, len(scheme.types)),
        "predicted_spans": occurrences(found.type, found.starts, len(scheme.types)),
        "correct_spans": occurrences(true.type, correct, len(scheme.types)),
    }


def _spans(classes: Tensor, kinds: Tensor) -> _Spans:
    kind, opens, follows = kinds[:, classes]
    goes_on = torch.zeros_like(classes, dtype=torch.bool)
    goes_on[:, 1:] = (opens[:, :-1] & follows[:, 1:]).bool() & (kind[:, :-1] == kind[:, 1:])
    # At the last token of a sequence every span ends.
    ends = (kind >= 0) & ~torch.cat([goes_on[:, 1:], torch.zeros_like(goes_on[:, :1])], dim=1)
    length = classes.shape[1]
    places = torch.arange(length, device=classes.device)
    end = torch.where(ends, places, length).flip(1).cummin(dim=1).values.flip(1)
    return _Spans((kind >= 0) & ~goes_on, end, kind)
