"""The panels that every trainer can show, and which of them are chosen."""

import logging
from collections.abc import Sequence
from functools import cache

from tbtrainer.panels.calibration import Calibration
from tbtrainer.panels.confusion_matrix import ConfusionMatrix
from tbtrainer.panels.generations import Generations
from tbtrainer.panels.image_mistakes import ImageMistakes
from tbtrainer.panels.label_f1 import LabelF1
from tbtrainer.panels.loss_by_position import LossByPosition
from tbtrainer.panels.mistakes import Mistakes
from tbtrainer.panels.panel import Panel, PanelName
from tbtrainer.panels.perplexity_by_length import PerplexityByLength
from tbtrainer.panels.pr_curves import PrCurves
from tbtrainer.panels.projector import Projector
from tbtrainer.panels.regression import PredictedAgainstTrue, Residuals
from tbtrainer.panels.token_classes import TokenClasses
from tbtrainer.panels.token_confusion import TokenConfusion
from tbtrainer.panels.token_mistakes import TokenMistakes
from tbtrainer.panels.worst_tokens import WorstTokens

logger = logging.getLogger(__name__)

# In the order in which they are drawn.
BUILT_IN: tuple[type[Panel], ...] = (
    ConfusionMatrix,
    PrCurves,
    Calibration,
    Mistakes,
    ImageMistakes,
    LabelF1,
    PredictedAgainstTrue,
    Residuals,
    TokenClasses,
    TokenConfusion,
    TokenMistakes,
    LossByPosition,
    PerplexityByLength,
    WorstTokens,
    Generations,
    Projector,
)
PANEL_NAMES = tuple(kind.name for kind in BUILT_IN)


def chosen_panels(chosen: Sequence[str | Panel]) -> list[Panel]:
    """Returns the panels that `evaluation_panels` names.

    Args:
        chosen: Checked names of built-in panels, `"auto"` for all but those with `on_request`,
            `"none"`, and instances.
    """
    for name in chosen:
        if isinstance(name, PanelName):
            _explain_missing(name)
    panels: list[Panel] = []
    for kind in BUILT_IN:
        if kind.name in chosen or ("auto" in chosen and not kind.on_request):
            panels.append(kind())
    return panels + [panel for panel in chosen if isinstance(panel, Panel)]


@cache
def _explain_missing(name: PanelName) -> None:
    logger.warning(
        "The evaluation panel %s is not shown: these arguments were pickled, and have the name "
        "of a panel of your own alone since then. Set evaluation_panels again.",
        name,
    )
