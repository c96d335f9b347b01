"""Vectors are written where TensorBoard's Projector finds them."""

import os
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from tbtrainer.records import Embedding
from tbtrainer.run.projector import CONFIG, Projector

SECRET = "hf_" + "a1B2c3D4e5" * 3 + "f6G7"


def embedding(tag: str = "eval/projector", rows: int = 3) -> Embedding:
    vectors = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2) / 3
    return Embedding(tag, vectors, [f"label\t{row}\nof it" for row in range(rows)])


def sets(directory: Path) -> list[tuple[str, str, str]]:
    config = text_format.Parse((directory / CONFIG).read_text(), ProjectorConfig())
    return [(e.tensor_name, e.tensor_path, e.metadata_path) for e in config.embeddings]


def test_vectors_and_labels_have_a_line_each(tmp_path: Path) -> None:
    Projector(str(tmp_path), 0o666).write(embedding())
    ((name, vectors, labels),) = sets(tmp_path)
    assert name == "eval/projector"
    np.testing.assert_allclose(np.loadtxt(tmp_path / vectors), embedding().vectors, rtol=1e-6)
    assert (tmp_path / labels).read_text() == "".join(f"label {row} of it\n" for row in range(3))


def test_the_latest_vectors_of_a_tag_replace_the_earlier(tmp_path: Path) -> None:
    projector = Projector(str(tmp_path), 0o666)
    projector.write(embedding(rows=5))
    projector.write(embedding("eval/other"))
    projector.write(embedding(rows=2))
    assert [name for name, _, _ in sets(tmp_path)] == ["eval/other", "eval/projector"]
    assert len(np.loadtxt(tmp_path / sets(tmp_path)[1][1])) == 2


def test_sets_of_other_programs_stay(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text('embeddings { tensor_name: "mine" tensor_path: "x.tsv" }')
    Projector(str(tmp_path), 0o666).write(embedding())
    assert sets(tmp_path)[0][:2] == ("mine", "x.tsv")


def test_a_tag_names_no_file_outside_of_the_run(tmp_path: Path) -> None:
    inside = tmp_path / "run"
    Projector(str(inside), 0o666).write(embedding("../../outside"))
    assert os.listdir(tmp_path) == ["run"]


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    run.mkdir()
    (run / "projector_eval_projector_vectors.tsv").symlink_to(victim)
    Projector(str(run), 0o666).write(embedding())
    assert victim.read_text() == "precious"


def test_secrets_in_labels_are_hidden(tmp_path: Path) -> None:
    Projector(str(tmp_path), 0o666).write(
        Embedding("x", np.zeros((1, 2), np.float32), [f"token {SECRET}"])
    )
    assert not any(SECRET in file.read_text() for file in tmp_path.iterdir())


def test_private_files_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    Projector(str(tmp_path), 0o600).write(embedding())
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_a_broken_configuration_is_an_error(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("no configuration")
    with pytest.raises(text_format.ParseError):
        Projector(str(tmp_path), 0o666).write(embedding())
    assert (tmp_path / CONFIG).read_text() == "no configuration"
