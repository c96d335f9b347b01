"""The command `tbtrainer` on real runs, as a person and as a script use it."""

import csv
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import Trainer, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.command_line.export_tables import TABLES
from tests.documented_runs import make_runs
from tests.limits import HANG_SECONDS
from tests.tiny import arguments, trainer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "command-line.md"
BLOCK = re.compile(r"^```(console|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "TZ": "UTC"}
WORDS = [sys.executable, "-m", "tbtrainer"]


class Trained(NamedTuple):
    """A run, and what its trainer logged."""

    run: Path
    log_history: list[dict[str, Any]]


def tbtrainer(*words: object) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    return subprocess.run(
        [*WORDS, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        env=ENVIRONMENT,
    )


def as_json(*words: object) -> Any:
    done = tbtrainer(*words, "--json")
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """The same training with `TBTrainer` and with stock `Trainer`."""
    found = {}
    for name, cls, args_cls, changes in (
        ("ours", TBTrainer, TBTrainingArguments, {}),
        ("stock", Trainer, TrainingArguments, {"report_to": "tensorboard"}),
    ):
        output = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("TENSORBOARD_LOGGING_DIR", str(output / "run"))
            args = arguments(
                args_cls, output, eval_strategy="steps", eval_steps=5, num_train_epochs=1, **changes
            )
            training = trainer(cls, args)
            training.train()
        found[name] = Trained(output / "run", training.state.log_history)
    return found


@pytest.mark.parametrize("name", ["ours", "stock"])
def test_a_run_is_shown_as_it_was_logged(name: str, trained: dict[str, Trained]) -> None:
    run, history = trained[name]
    shown = as_json("show", run)
    assert shown["last_step"] == 10
    for key, tag in (("loss", "train/loss"), ("eval_loss", "eval/loss")):
        values = [(entry[key], entry["step"]) for entry in history if key in entry]
        curve = shown["curves"][tag]
        assert curve["count"] == len(values)
        assert [curve["last"], curve["last_step"]] == pytest.approx(values[-1])
        assert [curve["best"], curve["best_step"]] == pytest.approx(min(values))


def test_the_page_of_a_run_names_what_matters(trained: dict[str, Trained]) -> None:
    done = tbtrainer("show", trained["ours"].run)
    assert (done.returncode, done.stderr) == (0, "")
    assert "status      finished" in done.stdout and "steps 2 to 10" in done.stdout
    assert "health      good" in done.stdout
    assert re.search(r"learning_rate +0.001 +\(default 5e-05\)", done.stdout)
    assert all(tag in done.stdout for tag in ("train/loss", "eval/loss", "grad_norm/total"))
    assert "grad_norm_per_block" not in done.stdout
    assert "grad_norm_per_block" in tbtrainer("show", trained["ours"].run, "--all").stdout


def test_a_run_without_cards_of_ours_says_less(trained: dict[str, Trained]) -> None:
    shown = as_json("show", trained["stock"].run)
    assert shown["model"] == {"type": "bert"}
    assert (shown["changed_arguments"], shown["health"]["name"]) == (None, "unknown")


def test_runs_are_compared_by_what_differs(trained: dict[str, Trained]) -> None:
    runs = [trained["stock"].run, trained["ours"].run]
    compared = as_json("compare", *runs)
    assert "report_to" in compared["arguments"]
    assert not {"learning_rate", "output_dir"} & compared["arguments"].keys()
    stock, ours = compared["curves"]["eval/loss"]
    assert stock["last"] == ours["last"]
    same = tbtrainer("compare", *runs, "--fail-if", "eval/loss > baseline")
    worse = tbtrainer("compare", *runs, "--fail-if", "eval/loss > 0.9 * baseline")
    assert (same.returncode, worse.returncode) == (0, 1)
    assert "FAILS" in worse.stdout


@pytest.mark.parametrize("name", ["ours", "stock"])
def test_an_export_has_every_logged_value(name: str, trained: dict[str, Trained]) -> None:
    run, history = trained[name]
    done = tbtrainer("export", run, "--csv", "--tags", "^train/loss$")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    expected = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    assert [int(row["step"]) for row in rows] == [step for step, _ in expected]
    values = [value for _, value in expected]
    assert [float(row["value"]) for row in rows] == pytest.approx(values)


def test_an_export_has_every_histogram_of_tensorboard(trained: dict[str, Trained]) -> None:
    run = trained["ours"].run
    done = tbtrainer("export", run, "--json", "--what", "histograms", "--tags", "^parameters/")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    expected = EventAccumulator(str(run), {"histograms": 0}).Reload()
    tags = [tag for tag in expected.Tags()["histograms"] if tag.startswith("parameters/")]
    assert len(tags) > 10 and {row["tag"] for row in rows} == set(tags)
    for tag in tags:
        own = [(row["step"], row["count"], row["counts"]) for row in rows if row["tag"] == tag]
        theirs = [(e.step, e.histogram_value) for e in expected.Histograms(tag)]
        assert own == [(step, value.num, list(value.bucket)) for step, value in theirs]


@pytest.mark.parametrize("name", ["ours", "stock"])
def test_every_table_of_a_run_is_exported(
    name: str, trained: dict[str, Trained], tmp_path: Path
) -> None:
    run = trained[name].run
    words = ["--csv", "--include-rewound"]
    for table in TABLES:
        folder = ["--folder", tmp_path / "pictures"] if table == "images" else []
        done = tbtrainer("export", run, "--what", table, *words, *folder)
        rows = list(csv.DictReader(io.StringIO(done.stdout)))
        assert done.returncode == 0
        assert (done.stderr == "") == bool(rows) or table == "images"
        if name == "ours":
            assert bool(rows) == (table != "health"), table


def test_nobody_has_to_read_to_the_end(trained: dict[str, Trained]) -> None:
    command = f"{' '.join(WORDS)} export {trained['ours'].run} --csv | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        env=ENVIRONMENT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "tag,step,wall_time,value,session\n"


@pytest.mark.parametrize("name", ["ours", "stock"])
def test_a_run_is_sound(name: str, trained: dict[str, Trained]) -> None:
    found = as_json("doctor", trained[name].run)
    assert [each for each in found["findings"] if each["severity"] == "problem"] == []
    # The process of the test has made the files.
    assert found["written_by"] == [os.getpid()]


# ---- A run that is being written ----


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[tuple[Path, "subprocess.Popen[str]"]]:
    """A process that logs the step that it is told, or ends."""
    run = tmp_path / "run"
    code = (
        "import sys\n"
        "from tbtrainer.run import RunWriter\n"
        f"writer = RunWriter({str(run)!r})\n"
        "for line in sys.stdin:\n"
        "    writer.add_scalar('train/loss', 1 / int(line), int(line))\n"
        "    writer.flush()\n"
        "    print('logged', flush=True)\n"
        "writer.close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        log(process, 1)
        yield run, process
        process.communicate()


def log(process: "subprocess.Popen[str]", step: int) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{step}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "logged\n"


def following(run: Path, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*WORDS, "tail", str(run), "--json", "--interval", "0.05", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # A shell starts what it runs in the background with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def next_step(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    return int(json.loads(process.stdout.readline())["step"])


def test_tail_follows_a_run_until_its_process_ends(
    writing: tuple[Path, "subprocess.Popen[str]"],
) -> None:
    run, writer = writing
    with following(run) as follower:
        assert next_step(follower) == 1
        for step in (2, 3):
            log(writer, step)
            assert next_step(follower) == step
        assert as_json("show", run)["status"]["name"] == "running"
        writer.communicate()
        rest, errors = follower.communicate(timeout=HANG_SECONDS)
    assert json.loads(rest)["status"]["name"] == "unknown"
    assert (follower.returncode, errors) == (0, "")


def test_control_c_ends_tail_cleanly(writing: tuple[Path, "subprocess.Popen[str]"]) -> None:
    with following(writing[0]) as follower:
        assert next_step(follower) == 1
        follower.send_signal(signal.SIGINT)
        printed, errors = follower.communicate(timeout=HANG_SECONDS)
    assert (follower.returncode, printed, errors) == (0, "", "")


# ---- The documentation ----


def test_every_command_of_the_documentation_does_what_it_shows(tmp_path: Path) -> None:
    make_runs(tmp_path / "place")
    shim = tmp_path / "bin" / "tbtrainer"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {" ".join(WORDS)} "$@"\n')
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join((str(shim.parent), os.path.dirname(sys.executable), os.environ["PATH"]))
    environment = {**ENVIRONMENT, "PATH": path}
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) > 10
    for language, block in blocks:
        for command, expected in commands_of(language, block):
            done = subprocess.run(
                ["bash", "-c", command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=HANG_SECONDS,
                env=environment,
                cwd=tmp_path / "place",
            )
            assert done.returncode in ((0,) if language == "bash" else (0, 1)), done.stdout
            if expected is not None:
                assert is_as_shown(done.stdout, expected), f"{command}\n{done.stdout}"


def commands_of(language: str, block: str) -> Iterator[tuple[str, str | None]]:
    """Each command, and what the page shows of its output; `None` if it shows none."""
    if language == "bash":
        yield block, None
        return
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def is_as_shown(printed: str, shown: str) -> bool:
    """Whether two texts are equal, where … stands for any characters of a line."""
    pattern = ".*".join(re.escape(part) for part in shown.rstrip().split("…"))
    return re.fullmatch(pattern, printed.rstrip()) is not None
