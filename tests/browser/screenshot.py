"""Takes a picture of a run as TensorBoard draws it, in headless Chromium.

    python tests/browser/screenshot.py demo-output/runs docs/images/tensorboard.png

The default view, that of the README, shows curves, a picture and histograms of the demo.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.browser.chromium import Page, chromium
from tests.tensorboard_server import tensorboard

SHOWN = (
    "^(eval/(accuracy|confusion_matrix)|grad_norm/total"
    "|gradients/(bert.embeddings.LayerNorm.bias|bert.encoder.layer.0.attention.output.LayerNorm.bias"
    "|classifier.weight)"
    "|parameters/(bert.encoder.layer.0.attention.self.query.weight"
    "|bert.encoder.layer.5.output.LayerNorm.weight|bert.pooler.dense.bias))$"
)
# Tables below the curves, outliers cut off and the column of settings take the place of pictures.
UNCLUTTER = """
for (const text of ["Enable step selection", "Ignore outliers"]) {
  const boxes = [...document.querySelectorAll("mat-checkbox")];
  const box = boxes.find(e => e.textContent.includes(text));
  const input = box && box.querySelector("input");
  if (input && input.checked) input.click();
}
[...document.querySelectorAll("button")]
  .filter(e => /close/i.test(e.getAttribute("aria-label") || "")).forEach(e => e.click());
"""
DRAWN = "document.querySelectorAll('histogram-component path, .histogram path').length"
WAIT_SECONDS = 300


def wait_until_drawn(page: Page, script: str, settle_seconds: float) -> None:
    """Waits until a script counts something, and then for the animations."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not page.evaluate(script):
        if time.monotonic() > deadline:
            raise SystemExit("TensorBoard has drawn nothing.")
        time.sleep(0.2)
    time.sleep(settle_seconds)


def main() -> None:
    """Starts TensorBoard on a directory, takes the picture, says how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logdir", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--view", default=f"?smoothing=0&tagFilter={SHOWN}#timeseries")
    parser.add_argument("--wait-for", default="train/loss", help="A scalar that has to be there.")
    parser.add_argument("--drawn", default=DRAWN, help="JavaScript that counts what is drawn.")
    parser.add_argument("--width", type=int, default=1420)
    parser.add_argument("--height", type=int, default=1275)
    options = parser.parse_args()
    with (
        tensorboard(options.logdir, load_fast=True) as server,
        chromium(options.width, options.height) as page,
    ):
        server.wait_for("scalars", options.wait_for)
        page.open(server.address + options.view)
        wait_until_drawn(page, options.drawn, settle_seconds=1.0)
        page.evaluate(UNCLUTTER)
        time.sleep(3.0)
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        options.picture.write_bytes(page.picture())
    print(f"{options.picture}: {options.picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
