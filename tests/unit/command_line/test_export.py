"""`tbtrainer export`: every table of a run, in every format, and what is refused."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from tbtrainer import read_run
from tbtrainer.command_line.export_tables import TABLES
from tbtrainer.command_line.main import main
from tests.event_runs import curve, write

TOKEN = "hf_" + "aB3dE5fG7hI9jK1lM2nO4pQ6rS8tU0vW1x"
FRAMES = ("scalars", "histograms", "texts", "pr_curves")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of torch's `SummaryWriter` with values of every kind, and one report."""
    directory = tmp_path_factory.mktemp("run")
    with SummaryWriter(str(directory)) as writer:
        for step in range(3):
            writer.add_scalar("train/loss", 1 / (step + 1), step)
            writer.add_scalar("new/loss", step / 4, step, new_style=True)
            writer.add_histogram("weights", np.arange(10.0) * (step + 1), step)
            writer.add_image("eval/a picture", np.full((3, 4, 5), 50 * step, np.uint8), 2)
        writer.add_image("../eval/a picture", np.full((3, 7, 6), 200, np.uint8), 2)
        writer.add_text("note", "# A title\n\nwords", 1)
        writer.add_text("door/password", "open sesame", 1)
        labels, scores = np.array([0, 1, 1]), np.array([0.2, 0.4, 0.9])
        writer.add_pr_curve("class", labels, scores, 2, num_thresholds=11)
        hparams = {"rate": 0.5, "name": "a", "api_key": "open sesame"}
        writer.add_hparams(hparams, {"best": 1.0}, run_name=".")
    line = {"step": 7, "time": 2.5, "message": "not finite", "loss": "NaN", "token": TOKEN}
    (directory / "health.jsonl").write_text(json.dumps(line) + "\n")
    return directory


def exported(run: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The rows of an export as JSON lines."""
    assert main(["export", str(run), "--json", *words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("name", FRAMES)
def test_a_table_is_the_frame_of_its_name(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = exported(run, "--what", name, capsys=capsys)
    frame = getattr(read_run(run), name)
    assert len(rows) == len(frame) > 0
    assert list(rows[0]) == list(frame.columns)
    for column in frame.columns:
        if column == "text":
            assert [row["text"] for row in rows] == ["# A title\n\nwords", "<hidden>"]
        else:
            expected = [np.asarray(value).tolist() for value in frame[column]]
            assert [row[column] for row in rows] == expected


@pytest.mark.parametrize("name", TABLES)
def test_every_format_has_the_same_rows(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    found: dict[str, list[dict[str, Any]]] = {}
    for form in ("csv", "json", "parquet"):
        words = ["export", str(run), "--what", name, f"--{form}", "--output", str(tmp_path / form)]
        folder = ["--folder", str(tmp_path / f"{form} pictures")] if name == "images" else []
        assert main([*words, *folder]) == 0
        assert f"{TABLES[name].rows} written to" in capsys.readouterr().err
    found["csv"] = list(csv.DictReader(io.StringIO((tmp_path / "csv").read_text())))
    found["json"] = [json.loads(line) for line in (tmp_path / "json").read_text().splitlines()]
    found["parquet"] = parquet.read_table(tmp_path / "parquet").to_pylist()
    names = [column.name for column in TABLES[name].columns]
    sizes = {form: len(rows) for form, rows in found.items()}
    assert len(set(sizes.values())) == 1 and sizes["csv"] > 0
    assert [list(rows[0]) for rows in found.values()] == [names] * 3
    for column in TABLES[name].columns:
        if column.type in ("int", "float", "tag"):
            cells = [
                ["" if c[column.name] is None else str(c[column.name]) for c in rows]
                for rows in found.values()
            ]
            assert cells[0] == cells[1] == cells[2]
    for path in (tmp_path / "csv", tmp_path / "json", tmp_path / "parquet"):
        assert b"open sesame" not in path.read_bytes()
        assert TOKEN.encode() not in path.read_bytes()


def test_small_tables_say_what_the_run_knows(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = exported(run, "--what", "tags", "--tags", "^train/", capsys=capsys)
    assert [(row["tag"], row["kind"], row["count"]) for row in tags] == [
        ("train/loss", "scalar", 3)
    ]
    hparams = exported(run, "--what", "hparams", capsys=capsys)
    values = {row["name"]: row["value"] for row in hparams}
    assert values == {"api_key": "<hidden>", "name": "a", "rate": 0.5}
    (report,) = exported(run, "--what", "health", capsys=capsys)
    assert (report["step"], report["time"], report["message"]) == (7, 2.5, "not finite")
    assert report["report"] == {"loss": "NaN", "token": "<hidden>"}
    sessions = exported(run, "--what", "sessions", capsys=capsys)
    assert [row["session"] for row in sessions] == [s.index for s in read_run(run).sessions]
    assert [tuple(row["files"]) for row in sessions] == [s.files for s in read_run(run).sessions]


def test_pictures_are_files_of_a_new_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    rows = exported(run, "--what", "images", "--folder", str(folder), capsys=capsys)
    assert [row["file"] for row in rows] == [
        *("eval_a_picture-2.png", "eval_a_picture-2-2.png", "eval_a_picture-2-3.png"),
        "_eval_a_picture-2.png",
    ]
    assert sorted(os.listdir(folder)) == sorted(row["file"] for row in rows)
    for row, color in zip(rows, (0, 50, 100, 200), strict=True):
        with Image.open(folder / row["file"]) as picture:
            assert picture.size == (row["width"], row["height"])
            assert picture.getpixel((0, 0)) == (color,) * 3
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_pictures_whose_names_are_alike_are_all_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with SummaryWriter(str(tmp_path / "run")) as writer:
        for number, tag in enumerate(("a b", "other", "a_b")):
            writer.add_image(tag, np.full((3, 2, 2), number, np.uint8), 1)
    folder = tmp_path / "pictures"
    words = ["--what", "images", "--folder", str(folder)]
    rows = exported(tmp_path / "run", *words, capsys=capsys)
    assert [row["file"] for row in rows] == ["a_b-1.png", "other-1.png", "a_b-1-2.png"]
    for number, row in enumerate(rows):
        with Image.open(folder / row["file"]) as picture:
            assert picture.getpixel((0, 0)) == (number,) * 3


def test_a_folder_that_exists_is_not_touched(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").write_text("mine")
    words = ["export", str(run), "--what", "images", "--csv", "--overwrite"]
    for folder in (tmp_path, tmp_path / "empty", tmp_path / "mine"):
        assert main([*words, "--folder", str(folder)]) == 2
        assert f"{folder} exists; name a folder" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "mine"]


def test_a_picture_that_cannot_be_read_leaves_no_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rewritten(picture: object) -> bytes:
        raise OSError("the file was rewritten")

    monkeypatch.setattr("tbtrainer.reading.StoredImage.read", rewritten)
    words = ["export", str(run), "--what", "images", "--csv", "--folder", str(tmp_path / "new")]
    assert main([*words, "--output", str(tmp_path / "table.csv")]) == 2
    assert "rewritten" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--what", "histogram"], "it can be scalars, histograms, .*. Did you mean histograms?"),
        (["--what", "images"], "needs --folder DIR"),
        (["--folder", "x"], "--what images only"),
        (["--what", "health", "--tags", "x"], "--tags can be used with --what scalars, histograms"),
        (["--what", "histograms", "--tags", "train"], "matches none of 1 tags"),
    ],
)
def test_what_cannot_be_exported_says_what_can(
    words: list[str], expected: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "--json", *words]) == 2
    printed = capsys.readouterr()
    begin, _, end = expected.partition(".*")
    message = json.loads(printed.out)["error"]
    assert begin in message and end in message
    assert printed.err == f"tbtrainer export: {message}\n"


def test_a_run_without_rows_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, curve("train/loss", range(3)))
    assert main(["export", str(tmp_path), "--csv", "--what", "histograms"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("tag,step,wall_time,session,count,min,") and "\n" in printed.out
    assert printed.err == f"{tmp_path} has no histograms.\n"


def test_values_that_were_rewound_are_exported_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, curve("loss", range(5)), start_step=0)
    write(tmp_path, curve("loss", range(3, 6)), 1_700_000_100, start_step=3)
    steps = [row["step"] for row in exported(tmp_path, capsys=capsys)]
    assert steps == [0, 1, 2, 3, 4, 5]
    rewound = exported(tmp_path, "--include-rewound", capsys=capsys)
    assert [row["step"] for row in rewound] == [0, 1, 2, 3, 4, 3, 4, 5]


def test_an_export_never_replaces_a_file_unasked(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "scalars.csv"
    words = ["export", str(run), "--csv", "--output", str(file)]
    assert main(words) == 0
    content = file.read_bytes()
    file.write_bytes(b"mine")
    assert main(words) == 2
    assert file.read_bytes() == b"mine"
    assert main([*words, "--overwrite"]) == 0
    assert file.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["scalars.csv"]
