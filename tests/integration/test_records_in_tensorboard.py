"""Pictures, PR curves and embeddings are shown by TensorBoard itself, with either loader."""

import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from tbtrainer import Observer, TBTrainer, TBTrainingArguments
from tbtrainer.records import Embedding, Image, PrCurve
from tests.limits import HANG_SECONDS
from tests.tensorboard_server import TensorBoardServer, tensorboard
from tests.tiny import arguments, trainer

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
VECTORS = np.eye(3, dtype=np.float32)
POSITIVES, NEGATIVES = [0, 1, 2, 3, 1], [4, 2, 1, 0, 0]


class Shown(Observer):
    """Returns one record of each kind at the end."""

    def run_ends(self, step: int) -> list[Any]:
        return [
            Image("own/picture", PIXELS),
            PrCurve.from_counts("own/curve", POSITIVES, NEGATIVES),
            Embedding("own/nothing", VECTORS[:0], []),
            Embedding("own/vectors", VECTORS, ["a", "b", "c"]),
            Embedding("own_vectors", -VECTORS, ["d", "e", "f"]),
        ]


@pytest.fixture(scope="module", params=[True, False], ids=["load_fast", "load_slow"])
def server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[TensorBoardServer]:
    board = tmp_path_factory.mktemp("board")
    args = arguments(
        TBTrainingArguments,
        tmp_path_factory.mktemp("out"),
        logging_dir=str(board),
        max_steps=2,
        telemetry_errors="raise",
    )
    made = trainer(TBTrainer, args)
    made.add_observer(Shown())
    made.train()
    with tensorboard(Path(board), load_fast=request.param) as running:
        running.wait_for("images", "own/picture")
        yield running


def answer(server: TensorBoardServer, path: str) -> bytes:
    with urllib.request.urlopen(f"{server.address}data/{path}", timeout=HANG_SECONDS) as found:
        content: bytes = found.read()
    return content


def test_a_picture_keeps_its_pixels(server: TensorBoardServer) -> None:
    (shown,) = server.ask("plugin/images/images", run=".", tag="own/picture", sample="0")
    picture = Picture.open(
        BytesIO(answer(server, f"plugin/images/individualImage?{shown['query']}"))
    )
    assert shown["step"] == 2 and np.array_equal(np.asarray(picture), PIXELS)


def test_a_curve_has_its_counts(server: TensorBoardServer) -> None:
    (shown,) = server.ask("plugin/pr_curves/pr_curves", run=".", tag="own/curve")["."]
    assert shown["step"] == 2
    assert shown["true_positives"] == [7, 7, 6, 4, 1]
    assert shown["false_positives"] == [7, 3, 1, 0, 0]


def test_the_projector_finds_vectors_and_labels(server: TensorBoardServer) -> None:
    config = server.ask("plugin/projector/info", run=".")
    names = [each["tensorName"] for each in config["embeddings"]]
    # TensorBoard 2.21 answers an empty set among them with an error.
    assert names == ["own/vectors:2", "own_vectors:2"]
    for name, vectors, letters in zip(names, (VECTORS, -VECTORS), ("abc", "def"), strict=True):
        tensor = answer(server, f"plugin/projector/tensor?run=.&name={name}")
        assert np.array_equal(np.frombuffer(tensor, np.float32).reshape(3, 3), vectors)
        labels = answer(server, f"plugin/projector/metadata?run=.&name={name}")
        assert labels.decode().split() == [*letters]
