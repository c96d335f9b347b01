"""Pictures look the same whatever a user has set for plots of their own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import rc_context, style
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.panels.calibration import Calibration
from tbtrainer.panels.confusion_matrix import ConfusionMatrix
from tbtrainer.panels.image_mistakes import ImageMistakes
from tbtrainer.panels.loss_by_position import _draw
from tbtrainer.panels.panel import Panel
from tbtrainer.panels.pictures import picture
from tbtrainer.panels.regression import PredictedAgainstTrue, Residuals
from tbtrainer.records import Image
from tests.panel_evaluations import batch, drawn

# How glyphs and edges meet the pixels, and whether a dash grows with the width of its line, is only
# set for all of matplotlib.
NOT_OURS = (
    *("text.hinting", "text.hinting_factor", "text.kerning_factor", "path.snap"),
    "lines.scale_dashes",
)
# Whether and how matplotlib's parts for other purposes run.
OTHERS = (
    *("backend", "_internal", "interactive", "webagg", "animation", "savefig", "date."),
    "toolbar",
)
WORDS = (
    *("red", "bottom", "top", "right", "bold", "italic", "all", "both", "--", "serif", "s"),
    *("monospace", "bilinear", "lower", "jet", "inout", "round", "round_numbers", "x-large"),
)
# Settings of which matplotlib refuses a wrong value only where it is used.
CHOSEN = {
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=["red"], lw=[5]),
    "figure.subplot.bottom": 0.4,
    "font.style": "italic",
    "grid.alpha": 0.3,
    "font.variant": "small-caps",
    "image.cmap": "jet",
    "legend.framealpha": 0.3,
    "lines.marker": "s",
    "scatter.marker": "s",
}


def classes(count: int, **inputs: Tensor) -> Any:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(96, count, generator=generator)
    labels = torch.where(torch.arange(96) % 2 == 0, logits.argmax(dim=1), torch.arange(96) % count)
    return batch(logits, labels, **inputs)


def numbers(count: int) -> Any:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randn(count, generator=generator)
    return batch((labels + torch.randn(count, generator=generator))[:, None], labels)


def shown(panel: Panel, given: Any) -> NDArray[np.uint8]:
    (image,) = drawn(panel, [given])
    assert isinstance(image, Image)
    return image.pixels


def losses() -> NDArray[np.uint8]:
    means = np.append(np.linspace(5, 3, 20), np.full(44, np.nan))
    return picture("x", lambda figure: _draw(figure, means, 4.0, "a title")).pixels


PICTURES: dict[str, Callable[[], NDArray[np.uint8]]] = {
    "confusion of few": lambda: shown(ConfusionMatrix(), classes(4)),
    "confusion of many": lambda: shown(ConfusionMatrix(), classes(30)),
    "calibration": lambda: shown(Calibration(), classes(4)),
    "points": lambda: shown(PredictedAgainstTrue(), numbers(200)),
    "density": lambda: shown(Residuals(), numbers(600)),
    "images": lambda: shown(
        ImageMistakes(), classes(4, pixel_values=torch.rand(96, 3, 5, 8).mul(0.5))
    ),
    "losses": losses,
}


def others(value: Any) -> Iterator[Any]:
    """Values that a setting may have instead."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (2 * value + 1, value + 1, value / 2 + 0.3)
    elif isinstance(value, str):
        yield from WORDS
    elif isinstance(value, list):
        yield from ([2 * each + 1 for each in value if isinstance(each, float)], ["DejaVu Serif"])
    elif value is None:
        yield from (True, 3.0, "red")


def every_setting_changed() -> dict[str, Any]:
    changed = dict(CHOSEN)
    for name, value in matplotlib.rcParamsDefault.items():
        if name.startswith((*NOT_OURS, *OTHERS, *CHOSEN)):
            continue
        for other in others(value):
            try:
                matplotlib.RcParams({name: other})
            except (ValueError, TypeError, RuntimeError):
                continue
            if other != value:
                changed[name] = other
                break
    return changed


@contextmanager
def settings(changed: dict[str, Any]) -> Iterator[None]:
    with rc_context():
        matplotlib.rcParams.update(changed)
        yield


@pytest.mark.parametrize("name", PICTURES)
def test_no_setting_of_matplotlib_reaches_a_picture(name: str) -> None:
    torch.manual_seed(0)
    expected = PICTURES[name]()
    changed = every_setting_changed()
    assert len(changed) > 200
    torch.manual_seed(0)
    with settings(changed):
        assert np.array_equal(PICTURES[name](), expected)


@pytest.mark.parametrize(
    "name", ["dark_background", "ggplot", "fivethirtyeight", "seaborn-v0_8-poster"]
)
def test_a_users_style_does_not_reach_a_picture(name: str) -> None:
    expected = PICTURES["calibration"]()
    with style.context(name):
        assert np.array_equal(PICTURES["calibration"](), expected)
