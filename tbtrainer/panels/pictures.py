"""Draws pictures for TensorBoard's cards with matplotlib, without its global state."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tbtrainer.records import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# TensorBoard shows a picture about 330 pixels wide, and larger on request. With this size and
# resolution a font of 8 points is 10 pixels high on the card.
WIDTH_INCHES = 3.4
DOTS_PER_INCH = 200
# Opaque, so that the picture looks the same in the light and the dark page.
BACKGROUND = "#fafafa"


def picture(
    tag: str,
    draw: Callable[["Figure"], None],
    height: float = WIDTH_INCHES,
    width: float = WIDTH_INCHES,
) -> Image:
    """Returns what a function draws, as a picture.

    matplotlib is imported at the first call. Neither pyplot nor its settings are used, so nothing
    of a user's own plots changes, and any thread may call it.

    Args:
        tag: The tag of the record.
        draw: Draws on an empty figure with a layout that fits its texts into it.
        height: Inches.
        width: Inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    figure = Figure((width, height), DOTS_PER_INCH, facecolor=BACKGROUND, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    draw(figure)
    for text in figure.findobj(Text):
        text.set_usetex(False)  # Whatever a user has set for plots of his own.
        text.set_parse_math(False)  # A class may be called "$5" or "a_b$".
        text.set_text(_drawable(text))
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[:, :, :3]
    return Image(tag, np.ascontiguousarray(pixels))


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


def _drawable(text: Any) -> str:
    """Returns a text in which characters that its font does not have are boxes.

    matplotlib would draw boxes too, with a warning for each character.
    """
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(text.get_fontproperties()))
    characters = str(text.get_text())
    return "".join(c if c in "\n\t" or font.get_char_index(ord(c)) else "□" for c in characters)
