"""Takes the pictures of docs/evaluation.md from the runs of docs/examples/evaluation_gallery.py.

    python tests/browser/gallery.py gallery docs/images/evaluation

Pictures are those of the event files. Tables and PR curves are what a browser shows of them.
"""

import argparse
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.browser.sick_runs import TABLES, View, take
from tests.events import event_files
from tests.tensorboard_server import tensorboard


def text(run: str, card: str, height: int) -> View:
    return View(run, card, drawn=TABLES, height=height, text=True)


VIEWS = {
    "mistakes": text("reviews", "mistakes", 620),
    "perplexity_by_length": text("language", "perplexity_by_length", 560),
    "label_f1": text("several_labels", "label_f1", 420),
    "token_classes": text("token", "token_classes", 560),
    "token_mistakes": text("token", "token_mistakes", 620),
    "worst_tokens": text("language", "worst_tokens", 620),
    "generations": text("language", "generations", 480),
}


def save_pictures(logdir: Path, directory: Path) -> None:
    """Writes the last picture of each tag; runs in the order of their names, the last one wins."""
    for run in sorted(path for path in logdir.iterdir() if path.is_dir()):
        for file in event_files(run):
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    if value.metadata.plugin_data.plugin_name == "images":
                        png = value.tensor.string_val[2]
                        name = value.tag.rpartition("/")[2]
                        (directory / f"{name}-{run.name}.png").write_bytes(png)


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
