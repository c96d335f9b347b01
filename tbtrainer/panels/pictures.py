"""Draws pictures for TensorBoard's cards with matplotlib, whatever its global settings are."""

import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tbtrainer.records import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A card of the Time Series page has room for a picture of about 370 x 215 pixels, and one of the
# Images page for a width of 350 (TensorBoard 2.21). With this size a font of 7 points is 10 pixels
# high there. The resolution is twice as high, for screens that have such pixels and for enlarged
# pictures.
WIDTH_INCHES, HEIGHT_INCHES = 3.7, 2.15
DOTS_PER_INCH = 200
# Opaque, so that the picture looks the same in the light and the dark page.
BACKGROUND = "#fafafa"
INK = "black"
TITLE_SIZE = 7.5
# matplotlib ships the first one. The others have the signs of Chinese, Japanese and Korean; the
# first of them that is installed is used.
_FONT = "DejaVu Sans"
_EAST_ASIAN_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC"),
    *("PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "WenQuanYi Zen Hei"),
    *("WenQuanYi Micro Hei", "Droid Sans Fallback", "Arial Unicode MS"),
)


def picture(
    tag: str,
    draw: Callable[["Figure"], None],
    height: float = HEIGHT_INCHES,
    width: float = WIDTH_INCHES,
) -> Image:
    """Returns what a function draws, as a picture.

    matplotlib is imported at the first call. pyplot is not used, and matplotlib's settings are
    neither followed nor changed, so any thread may call it while a user draws plots. (A context of
    settings, `matplotlib.rc_context`, would change them for all threads.)

    Args:
        tag: The tag of the record.
        draw: Draws on an empty figure with a layout that fits its texts into it. It gives colours,
            sizes and lines itself; texts outside of axes, ticks and names of axes get theirs here
            and from `plots.plain`.
        height: Inches.
        width: Inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(
        (width, height),
        DOTS_PER_INCH,
        facecolor=BACKGROUND,
        edgecolor=BACKGROUND,
        linewidth=0,
        frameon=True,
        layout=ConstrainedLayoutEngine(h_pad=0.04167, w_pad=0.04167, hspace=0.02, wspace=0.02),
    )
    # Where the layout starts from.
    figure.subplotpars.update(left=0.1, bottom=0.15, right=0.95, top=0.85, wspace=0.2, hspace=0.2)
    canvas = FigureCanvasAgg(figure)
    draw(figure)
    _set_own_style(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[:, :, :3]
    return Image(tag, np.ascontiguousarray(pixels))


def import_before_trackio_logs() -> None:
    """Imports matplotlib in this thread, if Trackio is used in this process.

    Call it from the thread of the training, before pictures are drawn in another one. Trackio 0.43
    leaves out all scalars that are logged while another thread imports `matplotlib.figure`, which
    takes long when fonts are searched for the first time: those of transformers' callback, of the
    user and of a mirror.
    """
    if "trackio" in sys.modules:
        import matplotlib.figure  # noqa: F401


def write_title(figure: "Figure", title: str) -> None:
    """Writes one or several lines above everything else."""
    figure.suptitle(title, fontsize=TITLE_SIZE, color=INK)


def shortened(text: str, most: int = 14) -> str:
    """Returns a text of at most `most` characters, with an ellipsis in its middle if it is longer.

    Example:
        >>> shortened("I-organisation-government", 12)
        'I-orga…nment'
    """
    if len(text) <= most:
        return text
    head = most // 2
    return f"{text[:head]}…{text[len(text) - (most - head - 1) :]}"


def drawable_name(name: str, number: int) -> str:
    """Returns the name of a class, or its number if no font has most of the name's signs.

    Args:
        name: One line.
        number: Of the class.
    """
    missing = sum(not _has_glyph(ord(sign)) for sign in name)
    return str(number) if 2 * missing > len(name) else name


def _set_own_style(figure: "Figure") -> None:
    """Replaces what matplotlib has taken from its settings for all that is drawn."""
    from matplotlib.text import Text

    for artist in figure.findobj():
        artist.set_sketch_params(None)
        artist.set_path_effects([])
        if hasattr(artist, "set_antialiased"):
            artist.set_antialiased(True)
        if isinstance(artist, Text):
            _set_own_font(artist)


def _set_own_font(text: Any) -> None:
    text.set_usetex(False)
    text.set_parse_math(False)  # A class may be called "$5" or "a_b$".
    text.set(fontfamily=list(_fonts()), fontstyle="normal", fontvariant="normal")
    text.set(fontweight="normal", fontstretch="normal")
    text.set_text(_drawable(text.get_text()))


@cache
def _fonts() -> tuple[str, ...]:
    """Returns the names of the fonts to use: a sign is taken from the first one that has it."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    east_asian = [name for name in _EAST_ASIAN_FONTS if name in installed]
    return (_FONT, *east_asian[:1])


def _drawable(text: str) -> str:
    """Returns a text in which signs that no font has are boxes.

    matplotlib would draw boxes too, with a warning for each sign.
    """
    return "".join(sign if sign == "\n" or _has_glyph(ord(sign)) else "□" for sign in text)


@cache
def _has_glyph(character: int) -> bool:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return any(
        get_font(findfont(FontProperties(family=[name]))).get_char_index(character) > 0
        for name in _fonts()
    )
