"""`TokenMistakes`: the tokens of which a token classifier is most certain, and wrong."""

from collections.abc import Iterator

from tbtrainer.panels.classified import classified
from tbtrainer.panels.markdown import cell, table
from tbtrainer.panels.marked_texts import marked_text, windows
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.tasks import class_label
from tbtrainer.panels.token_labels import (
    is_token_classification,
    tokens_as_examples,
    tokens_line,
)
from tbtrainer.panels.token_texts import has_texts, text_tokens
from tbtrainer.records import Text

# Tokens on each side of a mistake that are kept.
AROUND = 24
_HEADER = ("text", "label", "prediction", "confidence")


class TokenMistakes(Panel):
    """Shows the most confident mistakes of a token classifier, each in the text around it."""

    name = "token_mistakes"
    most_examples = 20

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether each token has a class, and there is a tokenizer to decode them."""
        batch = evaluation.first_batch
        return (
            is_token_classification(evaluation)
            and batch is not None
            and has_texts(batch.inputs, evaluation.processing_class)
        )

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns the most confident mistakes of the batch, with the tokens around them."""
        found = classified(tokens_as_examples(batch))
        worst, confidence = found.worst(self.most_examples)
        tokens = text_tokens(batch.inputs, evaluation.processing_class)
        return Kept(
            examples={
                "tokens": windows(tokens, worst, AROUND),
                "label": found.labels[worst],
                "prediction": found.predictions[worst],
            },
            priority=confidence,
            totals={"counted": found.counted.sum(), "wrong": found.wrong.sum()},
        )

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Text]:
        """Returns a card with a table, the most confident mistake first."""
        counted, wrong = int(kept.totals["counted"]), int(kept.totals["wrong"])
        if counted == 0:
            return []
        among = tokens_line(counted, kept.seen)
        if wrong == 0:
            card = f"No mistakes in {among}."
        else:
            rows = list(_rows(kept, evaluation))
            shown = "All" if len(rows) == wrong else f"The {len(rows)} most confident of"
            card = f"{shown} {wrong:,} mistakes in {among}:\n\n{table(_HEADER, rows)}"
        return [Text(evaluation.tag(self.name), card)]


def _rows(kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> Iterator[list[str]]:
    assert kept.priority is not None
    columns = (kept.examples[name] for name in ("tokens", "label", "prediction"))
    for tokens, label, prediction, confidence in zip(*columns, kept.priority, strict=True):
        yield [
            marked_text(tokens, evaluation.processing_class),
            cell(class_label(evaluation, int(label)), 40),
            cell(class_label(evaluation, int(prediction)), 40),
            f"{confidence:.3f}",
        ]
