"""Metrics of generated texts: sacreBLEU and ROUGE, computed by their libraries.

The libraries need no network. They are in the extra `text-metrics`.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from tbtrainer.metrics.bundled import BundledMetric

TEXTS = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}


class _TextMetric(BundledMetric):
    """Base of the metrics of texts.

    Attributes:
        package: The package that computes the metric.
        module: Its module.

    Raises:
        ImportError: The package is not installed.
    """

    columns = TEXTS
    package = ""
    module = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        try:
            self._library = importlib.import_module(self.module)
        except ImportError as error:
            raise ImportError(
                f"The metric {type(self).__name__.lower()!r} needs the package {self.package}, "
                f"which cannot be imported ({error}). Install it, or tbtrainer with the extra "
                "text-metrics."
            ) from error


class Sacrebleu(_TextMetric):
    """BLEU of a corpus with one reference per text, as sacreBLEU computes it by default.

    M. Post, "A Call for Clarity in Reporting BLEU Scores", 2018.

    Example:
        >>> texts = ["the cat sat on the mat"]
        >>> round(Sacrebleu().compute(predictions=texts, references=texts)["sacrebleu"])
        100
    """

    description = "BLEU of all texts together, from 0 to 100."
    package = "sacrebleu"
    module = "sacrebleu.metrics"

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Returns `{"sacrebleu": …}`, from 0 to 100."""
        bleu = self._library.BLEU().corpus_score(list(predictions), [list(references)])
        return {"sacrebleu": float(bleu.score)}


class Rouge(_TextMetric):
    """Mean over the texts of the F1 of ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum.

    C.-Y. Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004. The means are not
    those of a bootstrap, which would draw random numbers. The words of `rouge_score` are letters
    from a to z and digits. For ROUGE-Lsum each line of a text is a sentence.

    Example:
        >>> Rouge().compute(predictions=["the cat"], references=["the cat sat"])["rouge1"]
        0.8
    """

    description = "Overlap of words, pairs of words and subsequences, from 0 to 1."
    package = "rouge-score"
    module = "rouge_score.rouge_scorer"

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Returns `{"rouge1": …, "rouge2": …, "rougeL": …, "rougeLsum": …}`, from 0 to 1."""
        kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
        scorer = self._library.RougeScorer(kinds)
        scores = [scorer.score(r, p) for p, r in zip(predictions, references, strict=True)]
        return {kind: float(np.mean([s[kind].fmeasure for s in scores])) for kind in kinds}


TEXT_METRICS: dict[str, type[BundledMetric]] = {"rouge": Rouge, "sacrebleu": Sacrebleu}
