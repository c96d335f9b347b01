"""Vectors are written where TensorBoard's Projector finds them."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from tbtrainer.event_file.local_storage import LocalStorage
from tbtrainer.records import Embedding
from tbtrainer.run.projector import CONFIG, Projector

SECRET = "hf_" + "a1B2c3D4e5" * 3 + "f6G7"


def embedding(tag: str = "eval/projector", rows: int = 3) -> Embedding:
    vectors = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2) / 3
    return Embedding(tag, vectors, [f"label\t{row}\nof it" for row in range(rows)])


def sets(directory: Path) -> list[tuple[str, str, str]]:
    config = text_format.Parse((directory / CONFIG).read_text(), ProjectorConfig())
    return [(e.tensor_name, e.tensor_path, e.metadata_path) for e in config.embeddings]


def tables(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir() if file.suffix == ".tsv"}


def test_vectors_and_labels_have_a_line_each(tmp_path: Path) -> None:
    Projector(str(tmp_path), 0o666).write(embedding(), 7)
    ((name, vectors, labels),) = sets(tmp_path)
    assert name == "eval/projector:7"
    np.testing.assert_allclose(np.loadtxt(tmp_path / vectors), embedding().vectors, rtol=1e-6)
    assert (tmp_path / labels).read_text() == "".join(f"label {row} of it\n" for row in range(3))


def test_the_latest_vectors_of_a_tag_replace_the_earlier(tmp_path: Path) -> None:
    projector = Projector(str(tmp_path), 0o666)
    projector.write(embedding(rows=5), 1)
    projector.write(embedding("eval/other"), 1)
    projector.write(embedding(rows=2), 2)
    assert [name for name, _, _ in sets(tmp_path)] == ["eval/other:1", "eval/projector:2"]
    assert len(np.loadtxt(tmp_path / sets(tmp_path)[1][1])) == 2


def test_files_of_the_set_before_stay_older_ones_go(tmp_path: Path) -> None:
    projector = Projector(str(tmp_path), 0o666)
    projector.write(embedding("eval/other"), 1)
    read = []
    for step in range(1, 5):
        projector.write(embedding(rows=step), step)
        read.append(sets(tmp_path))
    expected = {path for found in read[-2:] for _, *paths in found for path in paths}
    assert tables(tmp_path) == expected and len(expected) == 6


def test_a_set_that_could_not_be_written_leaves_the_earlier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projector = Projector(str(tmp_path), 0o666)
    projector.write(embedding(rows=5), 1)
    replace = LocalStorage.replace

    def full(self: LocalStorage, path: str, *arguments: Any, **options: Any) -> None:
        if path.endswith("_labels.tsv"):
            raise OSError(errno.ENOSPC, "no space")
        replace(self, path, *arguments, **options)

    monkeypatch.setattr(LocalStorage, "replace", full)
    with pytest.raises(OSError, match="no space"):
        projector.write(embedding(rows=2), 2)
    ((name, vectors, labels),) = sets(tmp_path)
    assert name == "eval/projector:1"
    assert len(np.loadtxt(tmp_path / vectors)) == 5
    assert len((tmp_path / labels).read_text().splitlines()) == 5


@pytest.mark.parametrize("other", ["eval_projector", "eval/projector/", "EVAL/projector", "é/猫"])
def test_different_tags_have_different_files(tmp_path: Path, other: str) -> None:
    projector = Projector(str(tmp_path), 0o666)
    projector.write(embedding(), 1)
    projector.write(embedding(other), 1)
    (_, *first), (_, *second) = sets(tmp_path)
    assert not {name.lower() for name in first} & {name.lower() for name in second}
    assert tables(tmp_path) == {*first, *second}


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_an_empty_set_is_left_out_with_one_warning(
    tmp_path: Path, shape: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    projector = Projector(str(tmp_path), 0o666)
    projector.write(embedding(), 1)
    before = sets(tmp_path)
    for step in (2, 3):
        empty = Embedding("eval/projector", np.zeros(shape, np.float32), ["a"] * shape[0])
        projector.write(empty, step)
    assert sets(tmp_path) == before
    (message,) = caplog.messages
    assert "eval/projector of step 2" in message and str(shape) in message


def test_half_a_surrogate_in_tag_and_label_is_replaced(tmp_path: Path) -> None:
    projector = Projector(str(tmp_path), 0o666)
    for step in (1, 2):
        projector.write(Embedding("eval/\ud800", np.ones((1, 2), np.float32), ["\ud800"]), step)
    ((name, _, labels),) = sets(tmp_path)
    assert (name, (tmp_path / labels).read_text()) == ("eval/?:2", "?\n")


def test_sets_of_other_programs_stay(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text('embeddings { tensor_name: "mine" tensor_path: "x.tsv" }')
    (tmp_path / "x.tsv").write_text("1\t2\n")
    Projector(str(tmp_path), 0o666).write(embedding(), 1)
    assert sets(tmp_path)[0][:2] == ("mine", "x.tsv") and (tmp_path / "x.tsv").exists()


def test_a_tag_names_no_file_outside_of_the_run(tmp_path: Path) -> None:
    inside = tmp_path / "run"
    Projector(str(inside), 0o666).write(embedding("../../outside"), 1)
    assert os.listdir(tmp_path) == ["run"]


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    Projector(str(run), 0o666).write(embedding(), 1)
    for name in sets(run)[0][1:]:
        (run / name).unlink()
        (run / name).symlink_to(victim)
    Projector(str(run), 0o666).write(embedding(), 1)
    assert victim.read_text() == "precious"
    assert not any((run / name).is_symlink() for name in sets(run)[0][1:])


def test_secrets_in_labels_are_hidden(tmp_path: Path) -> None:
    Projector(str(tmp_path), 0o666).write(
        Embedding("x", np.zeros((1, 2), np.float32), [f"token {SECRET}"]), 1
    )
    assert not any(SECRET in file.read_text() for file in tmp_path.iterdir())


def test_private_files_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    Projector(str(tmp_path), 0o600).write(embedding(), 1)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_a_broken_configuration_is_an_error(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("no configuration")
    with pytest.raises(text_format.ParseError):
        Projector(str(tmp_path), 0o666).write(embedding(), 1)
    assert (tmp_path / CONFIG).read_text() == "no configuration"
