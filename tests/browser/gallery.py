"""Takes the pictures of docs/evaluation.md from the runs of docs/examples/evaluation_gallery.py.

    python tests/browser/gallery.py gallery docs/images/evaluation

Pictures are those of the event files. Tables and PR curves are what a browser shows of them.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.browser.chromium import chromium
from tests.browser.screenshot import UNCLUTTER, wait_until_drawn
from tests.browser.sick_runs import TABLES
from tests.events import event_files
from tests.tensorboard_server import TensorBoardServer, tensorboard

# The elements of the dashboard hide their content in shadow trees.
CURVES = """
(function count(tree) {
  const inner = [...tree.querySelectorAll("*")].filter(e => e.shadowRoot);
  return tree.querySelectorAll("vz-line-chart2").length
    + inner.reduce((sum, e) => sum + count(e.shadowRoot), 0);
})(document)
"""
# The Projector is a page of its own inside of the other.
FRAME = "document.querySelectorAll('iframe').length"


@dataclass(frozen=True)
class View:
    """What a picture shows.

    Attributes:
        address: What comes after the address of the server.
        drawn: JavaScript that counts what is drawn.
        height: Of the window, in pixels.
        settle_seconds: How long it moves after that.
    """

    address: str
    drawn: str
    height: int
    settle_seconds: float = 5.0


def text(run: str, card: str, height: int) -> View:
    return View(f"#text&tagFilter={card}&regexInput={run}", TABLES, height)


VIEWS = {
    "mistakes": text("reviews", "mistakes", 620),
    "label_f1": text("several_labels", "label_f1", 420),
    "token_classes": text("token", "token_classes", 560),
    "token_mistakes": text("token", "token_mistakes", 620),
    "worst_tokens": text("language", "worst_tokens", 620),
    "perplexity_by_length": text("language", "perplexity_by_length", 560),
    "generations": text("language", "generations", 480),
    "pr_curves": View("#pr_curves&regexInput=images", CURVES, 760),
    "projector": View("#projector", FRAME, 760, settle_seconds=20.0),
}


def take(server: TensorBoardServer, view: View, path: Path) -> None:
    """Opens a view in a browser of its own and writes its picture."""
    with chromium(1420, view.height) as page:
        page.open(server.address + view.address)
        wait_until_drawn(page, view.drawn, view.settle_seconds)
        page.evaluate(UNCLUTTER)
        time.sleep(3.0)
        path.write_bytes(page.picture())
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def save_pictures(logdir: Path, directory: Path) -> None:
    """Writes the last picture of each tag, if docs/evaluation.md shows it."""
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    for run in sorted(path for path in logdir.iterdir() if path.is_dir()):
        for file in event_files(run):
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    if value.metadata.plugin_data.plugin_name == "images":
                        png = value.tensor.string_val[2]
                        name = f"{value.tag.rpartition('/')[2]}-{run.name}.png"
                        if name in page:
                            (directory / name).write_bytes(png)


def main() -> None:
    """Takes all pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logdir", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", nargs="*", choices=VIEWS, default=list(VIEWS))
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    save_pictures(options.logdir, options.directory)
    with tensorboard(options.logdir, load_fast=True) as server:
        server.wait_for("images", "eval/confusion_matrix")
        for name in options.only:
            take(server, VIEWS[name], options.directory / f"{name}.png")


if __name__ == "__main__":
    main()
