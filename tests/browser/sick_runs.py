"""Takes the pictures of docs/reading-a-run.md from the runs of docs/examples/sick_runs.py.

python tests/browser/sick_runs.py sick-runs docs/images
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.browser.chromium import Page, chromium
from tests.browser.screenshot import DRAWN, UNCLUTTER, wait_until_drawn
from tests.tensorboard_server import TensorBoardServer, tensorboard

LINES = "document.querySelectorAll('scalar-card line-chart').length"
# The elements of the Text dashboard hide their content in shadow trees.
TABLES = """
(function count(tree) {
  const inner = [...tree.querySelectorAll("*")].filter(e => e.shadowRoot);
  return tree.querySelectorAll("table").length
    + inner.reduce((sum, e) => sum + count(e.shadowRoot), 0);
})(document)
"""
IMAGES = "[...document.querySelectorAll('image-card img')].filter(e => e.naturalWidth).length"
BLOCKS = "grad_norm_per_block/(embedding|layers.0|layers.4|layers.8|layers.11|head)"
OPEN_MENU = "document.querySelectorAll('scalar-card [aria-label=\"More line chart options\"]')[%d]"
LOG_SCALE = "[...document.querySelectorAll('button')].find(e => /Y-axis log/.test(e.textContent))"
TITLES = "[...document.querySelectorAll('scalar-card .tag')].map(e => e.getAttribute('title'))"


@dataclass(frozen=True)
class View:
    """What a picture shows.

    Attributes:
        runs: Names of the runs, a regular expression; empty for all.
        tags: The tags, a regular expression.
        log_scale: The scalars whose axis is logarithmic, by the beginning of their tags.
        drawn: JavaScript that counts what is drawn.
        height: Of the window, in pixels.
        text: Whether it is the Text dashboard, not that of the time series.
    """

    runs: str
    tags: str
    log_scale: tuple[str, ...] = ()
    drawn: str = LINES
    height: int = 970
    text: bool = False

    @property
    def address(self) -> str:
        """What comes after the address of the server."""
        if self.text:
            return f"#text&tagFilter={self.tags}&regexInput={self.runs}"
        return f"?smoothing=0&runFilter={self.runs}&tagFilter=^({self.tags})$#timeseries"


VIEWS = {
    "overview": View(
        "",
        "train/loss|grad_norm/(total|clip_fraction)|health/(.*_spike_score|nonfinite_losses)",
        log_scale=("train/", "grad_norm/total"),
    ),
    "healthy": View(
        "healthy",
        "train/(loss|learning_rate)|grad_norm/total|grad_norm_per_block/layers.(0|4|11)",
    ),
    "exploding": View("healthy|exploding", BLOCKS, log_scale=("grad_norm_per_block/",)),
    "vanishing": View("healthy|vanishing", BLOCKS, log_scale=("grad_norm_per_block/",)),
    "vanishing-histograms": View(
        "vanishing",
        "gradients/layers.(0|11).linear.weight|parameters/layers.0.linear.weight",
        drawn=DRAWN,
        height=640,
    ),
    "depth": View(
        "healthy|exploding|vanishing", "model_depth/gradient_rms", drawn=IMAGES, height=560
    ),
    "learning-rate": View(
        "healthy|high",
        "train/(loss|learning_rate)|grad_norm/(max|clip_fraction)|health/.*_spike_score",
    ),
    "nan": View(
        "healthy|nan",
        "train/(loss|grad_norm)|grad_norm/total|health/nonfinite_(losses|gradients)",
    ),
    "nan-report": View("nan", "health", drawn=TABLES, height=828, text=True),
}


def set_log_scale(page: Page, beginnings: tuple[str, ...]) -> None:
    """Makes the vertical axis of some cards logarithmic, as a click in their menus does."""
    for number, title in enumerate(page.evaluate(TITLES) or []):
        if title.startswith(beginnings):
            for button in (OPEN_MENU % number, LOG_SCALE):
                page.evaluate(f"{button}.click()")
                time.sleep(1.0)


def take(server: TensorBoardServer, view: View, path: Path) -> None:
    """Opens a view in a browser of its own and writes its picture."""
    with chromium(1420, view.height) as page:
        page.open(server.address + view.address)
        wait_until_drawn(page, view.drawn, settle_seconds=5.0)
        page.evaluate(UNCLUTTER)
        time.sleep(3.0)
        if view.log_scale:
            set_log_scale(page, view.log_scale)
            time.sleep(3.0)
        path.write_bytes(page.picture())
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def main() -> None:
    """Starts TensorBoard on the runs and takes all pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logdir", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", nargs="+", choices=VIEWS, default=list(VIEWS))
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    with tensorboard(options.logdir, load_fast=True) as server:
        server.wait_for("images", "model_depth/gradient_rms")
        if "nan-report" in options.only:
            server.wait_for("text", "health/report/text_summary")
        for name in options.only:
            take(server, VIEWS[name], options.directory / f"run-{name}.png")


if __name__ == "__main__":
    main()
