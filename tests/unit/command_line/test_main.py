"""Exit codes, errors in one line, and output that a script or a terminal can take."""

import configparser
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tbtrainer.command_line import show
from tbtrainer.command_line.main import COMMANDS, command_parser, main
from tests.event_runs import BEGIN, curve, scalar, session_end, session_start, text, write
from tests.limits import HANG_SECONDS

ROOT = Path(__file__).parents[3]
TOKEN = "hf_" + "aB3dE5fG7hI9jK1lM2nO4pQ6rS8tU0vW1x"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 10 steps that has failed."""
    records = [session_start(), *curve("eval/loss", range(10, 0, -1)), session_end(2, BEGIN + 20)]
    write(tmp_path / "run", records)
    return tmp_path / "run"


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run that has ended well."""
    records = [session_start(), *curve("eval/loss", range(10, 0, -1)), session_end(1, BEGIN + 20)]
    write(tmp_path / "finished", records)
    return tmp_path / "finished"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run whose tags and texts hold secrets and control characters."""
    tags = [f"eval/\x1b[2J{TOKEN}", "eval/\u202e\x9b31m\x7f", 'a,"b"\r\n=1+1']
    card = f"| Model | |\n|---|---|\n| class\x1b | `{TOKEN}` |"
    records = [record for tag in tags for record in curve(tag, range(3))]
    records += [text("run/model", card), text("health/report", f"\x1b]0;x\x07 {TOKEN}", 3)]
    write(tmp_path / "hostile", records)
    return tmp_path / "hostile"


def each_command(path: Path) -> list[list[str]]:
    """Every command on a run, in every form that prints what is in it."""
    run = str(path)
    return [
        ["show", run, "--all"],
        ["show", run, "--json"],
        ["compare", run, run, "--tags", "."],
        ["compare", run, run, "--json"],
        ["export", run, "--csv"],
        ["export", run, "--json"],
        ["export", run, "--csv", "--what", "texts"],
        ["export", run, "--json", "--what", "texts"],
        ["tail", run, "--tags", "."],
        ["tail", run, "--json"],
        ["doctor", run],
        ["doctor", run, "--json"],
    ]


@pytest.mark.parametrize("number", range(12))
def test_output_has_neither_secrets_nor_control_characters(
    number: int, hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(each_command(hostile)[number])
    printed = capsys.readouterr()
    assert printed.out
    for stream in printed:
        assert TOKEN not in stream
        assert stream.replace("\n", "").isprintable()


@pytest.mark.parametrize("number", range(12))
def test_every_command_can_be_read_by_a_script(
    number: int, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = each_command(run)[number]
    main(words)
    printed = capsys.readouterr().out
    if "--json" in words:
        assert all(isinstance(json.loads(line), dict) for line in printed.splitlines())


@pytest.mark.parametrize(
    "words, code",
    [
        (["show", "RUN"], 0),
        (["compare", "RUN", "RUN"], 0),
        (["compare", "FINISHED", "--fail-if", "eval/loss > 100"], 0),
        (["compare", "FINISHED", "--fail-if", "eval/loss > 0"], 1),
        (["compare", "RUN", "FINISHED", "--fail-if", "eval/loss > 1.02 * baseline"], 0),
        (["compare", "RUN", "FINISHED", "--fail-if", "eval/loss >= baseline"], 1),
        (["compare", "FINISHED", "RUN", "--fail-if", "eval/loss > 1.02 * baseline"], 1),
        (["export", "RUN", "--csv"], 0),
        (["tail", "RUN"], 1),
        (["doctor", "RUN"], 0),
        (["show", "missing"], 2),
        (["show", "RUN", "--tags", "nothing"], 2),
        (["compare", "RUN"], 2),
        (["compare", "RUN", "--fail-if", "eval/loss > baseline"], 2),
        (["compare", "RUN", "--fail-if", "no/such > 1"], 2),
        (["compare", "RUN", "--fail-if", "eval/loss"], 2),
        (["export", "RUN", "--parquet"], 2),
        (["export", "RUN", "--csv", "-o", "events.out.tfevents.1"], 2),
        (["tail", "missing"], 2),
        (["doctor", "missing"], 2),
        (["doctor", "ftp-of-nobody://host/run"], 2),
    ],
)
def test_the_exit_code_says_what_happened(
    words: list[str], code: int, run: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"RUN": str(run), "FINISHED": str(finished)}
    assert main([paths.get(word, word) for word in words]) == code
    error = capsys.readouterr().err
    assert (error.count("\n") == 1 and error.startswith(f"tbtrainer {words[0]}: ")) == (code == 2)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["frobnicate"],
        ["show"],
        ["show", "x", "--tags", "["],
        ["export", "x", "--csv", "--json"],
    ],
)
def test_words_that_are_no_command_are_usage_errors(words: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(words)
    assert raised.value.code == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main([command, "--help"])
    assert raised.value.code == 0
    printed = capsys.readouterr().out
    assert "examples:" in printed and "--json" in printed and "exit codes" in printed
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.parametrize("command", [None, *(c for c in COMMANDS if c != "export")])
def test_the_help_fits_a_terminal(command: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = command_parser(command)
    if command is not None:
        (commands,) = (a.choices for a in parser._actions if isinstance(a.choices, dict))
        parser = commands[command]
    assert max(map(len, parser.format_help().splitlines())) < 80


def test_the_console_script_is_the_command() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (script,) = setup["options.entry_points"]["console_scripts"].split("\n")[1:]
    assert script == f"tbtrainer = {main.__module__}:{main.__name__}"


def test_an_error_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "missing", "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {"error": "missing does not exist."}


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "tbtrainer", "show", "missing", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=HANG_SECONDS,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert (ended.returncode, ended.stderr) == (2, "tbtrainer show: missing does not exist.\n")


def test_control_c_ends_a_command_that_is_being_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("tbtrainer.command_line.main.import_module", interrupted)
    assert main(["show", "missing"]) == 130
    assert capsys.readouterr().err == "\n"


def test_a_bug_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object) -> None:
        raise KeyError("loss")

    monkeypatch.setattr(show, "summary_of", broken)
    assert main(["show", str(run)]) == 3
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["show", str(run), "--traceback"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_a_nan_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "base", [scalar("eval/loss", 1, 1.0)])
    write(tmp_path / "nan", [scalar("eval/loss", 1, float("nan"))])
    write(tmp_path / "without", [scalar("train/loss", 1, 1.0)])
    condition = "eval/loss > 1.02 * baseline"
    for name in ("nan", "without"):
        words = ["compare", str(tmp_path / "base"), str(tmp_path / name), "--fail-if", condition]
        assert main(words) == 1
        assert "cannot be decided" in capsys.readouterr().out


def test_a_run_that_failed_does_not_pass(
    run: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(finished), str(finished), str(run), "--fail-if", "eval/loss > 100"]
    assert main([*words, "--json"]) == 1
    compared = json.loads(capsys.readouterr().out)
    assert compared["status"] == ["finished", "finished", "failed"]
    found = [(verdict["holds"], verdict["passes"]) for verdict in compared["verdicts"]]
    assert found == [(False, True), (False, False)]
    main(words)
    assert "FAILS (the run has failed)" in capsys.readouterr().out


def test_arguments_that_one_trainer_lacks_differ_if_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = "| Differs | value | default |\n|---|---|---|\n| `detail` | `2` | `1` |"
    ours = '{"learning_rate": 0.1, "detail": 2, "buckets": 64}'
    write(tmp_path / "ours", [text("args", ours), text("run/arguments", card)])
    write(tmp_path / "stock", [text("args", '{"learning_rate": 0.2}')])
    assert main(["compare", str(tmp_path / "ours"), str(tmp_path / "stock"), "--json"]) == 0
    differing = json.loads(capsys.readouterr().out)["arguments"]
    assert differing == {"learning_rate": ["0.1", "0.2"], "detail": ["2", "-"]}


def test_a_long_argument_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = f"| Differs | value | default |\n|---|---|---|\n| `fsdp` | `{'x' * 250}` | `no` |"
    write(tmp_path, [text("run/arguments", card), *curve("eval/loss", range(3))])
    assert main(["show", str(tmp_path)]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) < 120


def test_a_run_without_records_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, []).write_bytes(b"")
    assert main(["show", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "the process that wrote it has ended" in printed
    assert "no curves yet" in printed and "there are no curves" in printed
    assert "nan" not in printed and "finite" not in printed


def test_a_tag_with_a_slip_is_corrected(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", str(run), "--fail-if", "eval/los > 1"])
    assert "Did you mean eval/loss?" in capsys.readouterr().err


def test_several_runs_are_listed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(run.parent / "other", curve("train/loss", range(3)))
    assert main(["show", str(run.parent)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed[1:]] == [
        [str(run.parent / "other"), "unknown"],
        [str(run), "failed"],
    ]
    assert main(["tail", str(run.parent)]) == 2
    assert str(run) in capsys.readouterr().err


def test_the_only_run_below_is_meant(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(run.parent)]) == 0
    assert capsys.readouterr().out.startswith(f"{run}\n")


def test_a_run_of_another_store_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    name = "/command-line/run/events.out.tfevents.1.elsewhere.1.0"
    store.pipe_file(name, b"".join(curve("train/loss", range(5))))
    try:
        assert main(["show", "memory://command-line/run"]) == 0
        assert "steps 0 to 4" in capsys.readouterr().out
        store.pipe_file(name, b"".join(curve("train/loss", range(5)))[:-3])
        assert main(["doctor", "memory://command-line/run"]) == 1
        assert main(["doctor", "memory://command-line/run", "--repair"]) == 2
        assert main(["doctor", "memory://command-line/run", "--repair", "--force"]) == 0
    finally:
        store.rm("/command-line", recursive=True)


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("number", [0, 1, 2, 4, 6, 8, 10])
def test_no_command_imports_pytorch(number: int, run: Path) -> None:
    code = (
        "import sys; from tbtrainer.command_line.main import main; main(sys.argv[1:]); "
        "print([m for m in ('torch', 'transformers', 'pandas', 'tqdm', 'matplotlib') "
        "if m in sys.modules])"
    )
    done = python(code, *each_command(run)[number])
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
