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

from tests.browser.chromium import chromium
from tests.browser.screenshot import wait_until_drawn
from tests.browser.sick_runs import TABLES
from tests.tensorboard_server import TensorBoardServer, tensorboard

# Cells of the table of the HParams dashboard, which are in shadow trees.
CELLS = TABLES.replace('"table"', '"vaadin-grid-cell-content"')
CHARTS = TABLES.replace('"table"', '"vz-line-chart2, tf-custom-scalar-multi-line-chart-card"')


@dataclass(frozen=True)
class View:
    """What a picture shows.

    Attributes:
        dashboard: What comes after the address of the server.
        drawn: JavaScript that counts what is drawn.
        height: Of the window, in pixels.
        width: Of the window, in pixels.
        is_dark: Whether it is TensorBoard's dark page.
    """

    dashboard: str
    drawn: str
    height: int
    width: int = 1420
    is_dark: bool = False

    @property
    def address(self) -> str:
        """What comes after the address of the server, with the choice of the page."""
        return f"?smoothing=0{'&darkMode=true' if self.is_dark else ''}#{self.dashboard}"


VIEWS = {
    "front-hparams": View("hparams", CELLS, 560, 1900),
    "front-custom-scalars": View("custom_scalars", CHARTS, 980),
    "front-arguments": View("text&tagFilter=run/arguments", TABLES, 700),
    "front-hparams-dark": View("hparams", CELLS, 560, 1900, is_dark=True),
    "front-custom-scalars-dark": View("custom_scalars", CHARTS, 980, is_dark=True),
}


def take(server: TensorBoardServer, view: View, path: Path) -> None:
    """Opens a view in a browser of its own and writes its picture."""
    with chromium(view.width, view.height) as page:
        page.open(server.address + view.address)
        wait_until_drawn(page, view.drawn, settle_seconds=5.0)
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
        server.wait_for("scalars", "hparams/best_accuracy")
        for name in options.only:
            take(server, VIEWS[name], options.directory / f"{name}.png")


if __name__ == "__main__":
    main()
