"""Takes the pictures of docs/front-page.md from three runs of the demo.

    python tests/browser/front_page.py demo-rates/runs docs/images

`make screenshot` makes the runs, which differ in their learning rate.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.browser.chromium import Area, chromium
from tests.browser.screenshot import wait_until_drawn
from tests.browser.sick_runs import TABLES
from tests.tensorboard_server import TensorBoardServer, tensorboard

# Cells of the table of the HParams dashboard, which are in shadow trees.
CELLS = TABLES.replace('"table"', '"vaadin-grid-cell-content"')
CHARTS = TABLES.replace('"table"', '"vz-line-chart2, tf-custom-scalar-multi-line-chart-card"')
# Clicks boxes by their text, which are in shadow trees.
CLICK = """
(function click(tree) {
  for (const box of tree.querySelectorAll("paper-checkbox"))
    if (%s.includes(box.textContent.trim())) box.click();
  [...tree.querySelectorAll("*")].filter(e => e.shadowRoot).forEach(e => click(e.shadowRoot));
})(document)
"""
# The columns in which the runs are equal are switched off.
DIFFERENT_COLUMNS = (
    CLICK % '["num_train_epochs", "train_batch_size", "trained_parameters", "weight_decay"]'
)
WITH_OUTLIERS = CLICK % '["Ignore outliers in chart scaling"]'


@dataclass(frozen=True)
class View:
    """What a picture shows.

    Attributes:
        dashboard: What comes after the address of the server.
        drawn: JavaScript that counts what is drawn.
        width: Of the window, in pixels. The list on the left takes a share of it.
        area: The part of the window that is in the picture.
        script: JavaScript that is run when the page is drawn.
    """

    dashboard: str
    drawn: str
    width: int
    area: Area
    script: str = ""


VIEWS = {
    "front-hparams": View("hparams", CELLS, 1500, Area(300, 64, 1200, 230), DIFFERENT_COLUMNS),
    "front-custom-scalars": View(
        "custom_scalars&_smoothingWeight=0", CHARTS, 1100, Area(0, 64, 1100, 1390), WITH_OUTLIERS
    ),
    "front-arguments": View(
        "text&tagFilter=run/arguments&regexInput=1e-4", TABLES, 1420, Area(374, 178, 545, 552)
    ),
}


def take(server: TensorBoardServer, view: View, path: Path, is_dark: bool) -> None:
    """Opens a view in a browser of its own and writes its picture."""
    # The browser takes some of the height for itself.
    height = view.area.y + view.area.height + 100
    page_colour = "&darkMode=true" if is_dark else ""
    with chromium(view.width, height) as page:
        page.open(f"{server.address}?smoothing=0{page_colour}#{view.dashboard}")
        wait_until_drawn(page, view.drawn, settle_seconds=5.0)
        page.evaluate(view.script)
        time.sleep(3.0)
        path.write_bytes(page.picture(view.area))
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def main() -> None:
    """Starts TensorBoard on the runs and takes all pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logdir", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", nargs="+", choices=VIEWS, default=list(VIEWS))
    parser.add_argument("--dark", action="store_true", help="take TensorBoard's dark page")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    with tensorboard(options.logdir, load_fast=True) as server:
        server.wait_for("scalars", "hparams/best_accuracy")
        for name in options.only:
            take(server, VIEWS[name], options.directory / f"{name}.png", options.dark)


if __name__ == "__main__":
    main()
