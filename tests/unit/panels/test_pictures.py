"""Pictures are drawn without matplotlib's global state."""

import subprocess
import sys
import threading
import warnings
from typing import Any

import numpy as np
import pytest

from tbtrainer.panels.pictures import drawable_name, picture, shortened
from tests.limits import HANG_SECONDS


def bar(figure: Any) -> None:
    figure.subplots().bar(["a", "b"], [1, 2])


def test_a_picture_has_the_size_that_was_asked_for() -> None:
    assert picture("eval/x", bar, height=2.0, width=3.0).pixels.shape == (400, 600, 3)


def test_equal_drawings_are_equal_pictures() -> None:
    assert np.array_equal(picture("x", bar).pixels, picture("x", bar).pixels)


@pytest.mark.parametrize(
    "name", ["$5", "a_b$c$", "\\frac", "类别", "😀", "x\ny", "\ud800", "\x00\r\t"], ids=ascii
)
def test_any_class_name_is_drawn_without_warnings(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = picture("x", lambda figure: figure.text(0.1, 0.5, name)).pixels
    empty = picture("x", lambda figure: figure.text(0.1, 0.5, "")).pixels
    assert not np.array_equal(shown, empty)


def test_threads_draw_at_the_same_time() -> None:
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(picture("x", bar).pixels)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_SECONDS)
    assert len(found) == 4 and all(np.array_equal(found[0], pixels) for pixels in found)


def test_drawing_leaves_pyplot_alone() -> None:
    code = (
        "import sys; import tbtrainer; print('matplotlib' in sys.modules)\n"
        "from tbtrainer.panels.pictures import picture\n"
        "picture('x', lambda figure: None); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_long_names_keep_their_ends() -> None:
    assert shortened("I-organisation-government", 12) == "I-orga…nment"
    assert shortened("short", 12) == "short"


@pytest.mark.parametrize(
    "name, shown",
    [("a", "a"), ("", ""), ("\uffff\ufffe", "7"), ("\uffff\ufffea", "7"), ("😀 face", "😀 face")],
    ids=ascii,
)
def test_a_name_without_glyphs_is_a_number(name: str, shown: str) -> None:
    assert drawable_name(name, 7) == shown
