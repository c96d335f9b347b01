"""Whether a curve is better when it is lower or when it is higher, judged by its tag."""

import re
from typing import Literal

from tbtrainer.tags import TAGS

Direction = Literal["lower", "higher"]

# Words at the end of a metric's name, without the digits of names such as `rouge1`.
_LOWER = frozenset(
    (
        *("loss", "perplexity", "ppl", "nll", "error", "mae", "mse", "rmse", "mape"),
        *("wer", "cer", "ter", "brier", "ece"),
    )
)
_HIGHER = frozenset(
    (
        *("accuracy", "acc", "f", "precision", "recall", "auc", "auroc", "matthews", "mcc"),
        *("bleu", "sacrebleu", "rouge", "rougel", "rougelsum", "meteor", "chrf", "bertscore"),
        *("pearson", "pearsonr", "spearman", "spearmanr", "correlation", "r", "iou", "dice"),
        *("map", "mrr", "ndcg", "match", "reward", "kappa"),
    )
)
# Words that follow the one that counts, as in `f1_macro` and `accuracy_top_5`.
_AFTER = frozenset(("macro", "micro", "weighted", "top", "at", "mean", "average", "avg", "score"))


def direction_of(tag: str) -> Direction | None:
    """Returns whether lower or higher values of a curve are better; `None` if that is not known.

    Only names that leave no doubt have a direction. The curves of tbtrainer itself have none,
    because a gradient norm or a step time is not a goal.

    Example:
        >>> direction_of("eval/loss"), direction_of("eval/f1_macro"), direction_of("train/epoch")
        ('lower', 'higher', None)
    """
    if any(known.matches(tag) for known in TAGS):
        return None
    words = [word for word in re.split(r"[^a-z]+", tag.rpartition("/")[2].lower()) if word]
    while len(words) > 1 and words[-1] in _AFTER:
        words.pop()
    if not words:
        return None
    return "lower" if words[-1] in _LOWER else "higher" if words[-1] in _HIGHER else None
