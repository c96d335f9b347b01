"""`tbtrainer doctor` finds what faults left in a run, and repairs it without losing a byte."""

import contextlib
import errno
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tbtrainer.command_line.main import main
from tbtrainer.event_file.local_storage import LocalStorage
from tbtrainer.event_file.names import CLAIM, event_files_in
from tbtrainer.reading import read_run
from tbtrainer.run import RunWriter
from tbtrainer.run.claim import claim_run_directory
from tests.event_runs import BEGIN, NO_PROCESS, curve, event_file_of, scalar, text, write
from tests.events import events
from tests.loaders import LOADERS, loading
from tests.rewinding import contents, crash_at

Steps = set[int]


def doctor(run: Path | str, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code of the command, and what it prints for a script."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = main(["doctor", str(run), "--json", *options])
    return code, json.loads(printed.getvalue())


def problems(found: dict[str, Any]) -> list[str]:
    return [each["check"] for each in found["findings"] if each["severity"] == "problem"]


def torn(run: Path) -> Steps:
    """A process was killed while it wrote its last record."""
    file = write(run, curve("loss", range(20)))
    os.truncate(file, file.stat().st_size - 5)
    return set(range(19))


def zeros_at_the_end(run: Path) -> Steps:
    """A crash of the machine left zeros in the place of the last records."""
    file = write(run, curve("loss", range(20)))
    os.truncate(file, file.stat().st_size + 4096)
    return set(range(20))


def flipped_byte(run: Path) -> Steps:
    """A byte in the middle is wrong. No loader reads what follows."""
    records = curve("loss", range(20))
    file = write(run, [*records[:7], *records[8:]])
    data = file.read_bytes()
    place = data.index(records[8])
    file.write_bytes(data[:place] + records[7][:-1] + b"\x00" + data[place:])
    return set(range(20)) - {7}


def damaged_beginning(run: Path) -> Steps:
    """The first record, that of the version, is damaged."""
    file = write(run, curve("loss", range(20)))
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    return set(range(20))


def resumed_without_rewind(run: Path) -> Steps:
    """A stock Trainer resumed from step 10 in the same directory."""
    write(run, [text("args", "{}"), *curve("loss", range(15))])
    begin = BEGIN + 100
    records = curve("loss", range(11, 20), begin)
    write(run, [text("args", "{}", 0, begin), *records], begin, NO_PROCESS + 1)
    return set(range(20))


def resumed_with_start(run: Path) -> Steps:
    """A session says that it begins at step 11, and nothing was taken out of the one before."""
    write(run, curve("loss", range(15)), start_step=0)
    begin = BEGIN + 100
    write(run, curve("loss", range(12, 20), begin), begin, NO_PROCESS + 1, start_step=11)
    return {*range(11), *range(12, 20)}


def wrong_order(run: Path) -> Steps:
    """Files were renamed, so that the later session comes first."""
    first = write(run, curve("loss", range(10)))
    second = write(run, curve("loss", range(10, 20), BEGIN + 100), BEGIN + 100, NO_PROCESS + 1)
    second.rename(run / event_file_of(NO_PROCESS, BEGIN - 100))
    assert sorted(run.iterdir())[1] == first
    return set(range(20))


def torn_lines(run: Path) -> Steps:
    """A file of JSON lines whose last line is incomplete."""
    write(run, curve("loss", range(5)))
    (run / "health.jsonl").write_bytes(b'{"step": 3, "time": 1.5}\n{"step": 4, "ti')
    return set(range(5))


def everything(run: Path) -> Steps:
    """Several faults: damage hides values that a later session has replaced."""
    flipped_byte(run)
    begin = BEGIN + 100
    file = write(run, curve("loss", range(15, 30), begin), begin, NO_PROCESS + 1)
    os.truncate(file, file.stat().st_size - 5)
    return set(range(29)) - {7}


SCENES: dict[str, tuple[Callable[[Path], Steps], str]] = {
    scene.__name__: (scene, check)
    for scene, check in (
        (torn, "records"),
        (zeros_at_the_end, "records"),
        (flipped_byte, "records"),
        (damaged_beginning, "records"),
        (resumed_without_rewind, "sessions"),
        (resumed_with_start, "sessions"),
        (wrong_order, "order"),
        (torn_lines, "lines"),
        (everything, "records"),
    )
}


@pytest.mark.parametrize("name", SCENES)
def test_a_fault_is_found_and_nothing_is_changed(name: str, tmp_path: Path) -> None:
    scene, check = SCENES[name]
    scene(tmp_path)
    before = contents(tmp_path)
    code, found = doctor(tmp_path)
    assert (code, set(problems(found))) == (1, {check})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", SCENES)
def test_a_repaired_run_is_sound_and_stays_as_it_is(name: str, tmp_path: Path) -> None:
    SCENES[name][0](tmp_path)
    code, found = doctor(tmp_path, "--repair")
    assert (code, problems(found)) == (0, [])
    assert found["repairs"]
    repaired = contents(tmp_path)
    assert doctor(tmp_path, "--repair") == (0, {**found, "repairs": []})
    assert contents(tmp_path) == repaired


@pytest.mark.parametrize("name", SCENES)
def test_every_byte_is_kept_under_an_unread_name(name: str, tmp_path: Path) -> None:
    SCENES[name][0](tmp_path)
    before = contents(tmp_path)
    _, found = doctor(tmp_path, "--repair")
    after = contents(tmp_path)
    assert set(before.values()) <= set(after.values())
    kept = {each["kept"] for each in found["repairs"] if "renamed" not in each["action"]}
    assert not kept & set(event_files_in(str(tmp_path)))
    assert len(event_files_in(str(tmp_path))) == len([n for n in before if "tfevents" in n])


def test_a_damaged_beginning_is_made_anew(tmp_path: Path) -> None:
    damaged_beginning(tmp_path)
    doctor(tmp_path, "--repair")
    first, second = itertools.islice(events(next(tmp_path.glob("*tfevents*"))), 2)
    assert first.file_version == "brain.Event:2"
    assert first.wall_time == second.wall_time


@pytest.mark.parametrize("loader", LOADERS)
def test_tensorboard_shows_a_repaired_run_whole(
    loader: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runs = tmp_path_factory.mktemp("runs")
    expected = {name: scene(runs / name) for name, (scene, _) in SCENES.items()}
    for name in SCENES:
        assert main(["doctor", str(runs / name), "--repair", "--force"]) == 0
    with loading(runs, loader) as loaded:
        shown = {name: loaded.steps(name, "loss", steps) for name, steps in expected.items()}
    assert shown == expected


@pytest.mark.parametrize("name", ["resumed_without_rewind", "resumed_with_start"])
def test_a_repair_takes_out_what_read_run_hides(name: str, tmp_path: Path) -> None:
    SCENES[name][0](tmp_path)
    before = [(r.tag, r.step, r.wall_time, r.value) for r in read_run(tmp_path).iter_records()]
    doctor(tmp_path, "--repair")
    everything_left = read_run(tmp_path, include_rewound=True).iter_records()
    assert [(r.tag, r.step, r.wall_time, r.value) for r in everything_left] == before


@pytest.mark.parametrize("name", ["flipped_byte", "resumed_without_rewind", "torn_lines"])
@pytest.mark.parametrize("kill", [False, True])
def test_a_crash_at_any_call_loses_nothing(name: str, kill: bool, tmp_path: Path) -> None:
    words = ["doctor", str(tmp_path / "run"), "--repair", "--force"]
    moment, crashed = 0, True
    while crashed:
        run = tmp_path / "run"
        expected = SCENES[name][0](run)
        before = contents(run)
        crashed = (
            crashed_in_a_child(moment, words) if kill else crash_at(moment, lambda: main(words))
        )
        assert set(before.values()) <= set(contents(run).values())
        assert main(words) == 0
        assert {r.step for r in read_run(run).iter_records(["loss"])} == expected
        shutil.rmtree(run)
        moment += 1
    assert moment > 3


def crashed_in_a_child(moment: int, words: list[str]) -> bool:
    """Repairs in a forked process, which ends at a call without cleaning up."""
    child = os.fork()
    if child == 0:
        os._exit(0 if not crash_at(moment, lambda: main(words), kill=True) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


# ---- What is not repaired ----


def test_a_run_that_is_being_written_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = (
        "import sys; from torch.utils.tensorboard import SummaryWriter\n"
        f"writer = SummaryWriter({str(run)!r})\n"
        "writer.add_scalar('loss', 1.0, 1); writer.flush(); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (file,) = run.iterdir()
        with open(file, "ab") as opened:
            opened.write(scalar("loss", 2, 1.0)[:9])
        before = contents(run)
        checked = doctor(run)
        refused = doctor(run, "--repair", "--force")
        process.communicate()
    assert (checked[0], checked[1]["written_by"]) == (0, [process.pid])
    assert refused[0] == 2 and f"Process {process.pid} writes" in refused[1]["error"]
    assert contents(run) == before
    assert doctor(run, "--repair")[0] == 0


def test_a_run_of_another_machine_needs_force(tmp_path: Path) -> None:
    write(tmp_path, [*curve("loss", range(3)), b"torn"])
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / event_file_of(1, host="another-machine"))
    code, found = doctor(tmp_path, "--repair")
    assert code == 2 and "--force" in found["error"]
    os.utime(next(tmp_path.iterdir()), (BEGIN, BEGIN))
    assert doctor(tmp_path, "--repair")[0] == 0


def test_an_incomplete_record_of_a_live_run_is_no_problem(tmp_path: Path) -> None:
    torn(tmp_path)
    (file,) = tmp_path.iterdir()
    with open(file, "ab"):
        assert main(["doctor", str(tmp_path)]) == 0


@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_no_link_is_followed(scheme: str, tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    torn(run)
    torn(outside)
    (victim,) = outside.iterdir()
    (run / "events.out.tfevents.2.host.1.0").symlink_to(victim)
    (run / "below").symlink_to(outside)
    (run / "health.jsonl").symlink_to(victim)
    (run / CLAIM).symlink_to(victim)
    os.mkfifo(run / "events.out.tfevents.3.host.1.0")
    before = contents(outside)
    code, found = doctor(f"{scheme}{run}", "--repair")
    assert code == 1
    assert "files" in problems(found) and "claim" in problems(found)
    assert contents(outside) == before
    assert len(found["repairs"]) == 1


def test_a_run_below_is_left_alone(tmp_path: Path) -> None:
    torn(tmp_path)
    torn(tmp_path / "trial-1")
    before = contents(tmp_path / "trial-1")
    assert doctor(tmp_path, "--repair")[0] == 0
    assert contents(tmp_path / "trial-1") == before


def test_parts_of_a_run_in_folders_below_are_repaired(tmp_path: Path) -> None:
    write(tmp_path, curve("loss", range(3)))
    torn(tmp_path / "hparams")
    (part,) = (tmp_path / "hparams").iterdir()
    part.rename(f"{part}.part-of-run")
    code, found = doctor(tmp_path, "--repair")
    assert (code, len(found["repairs"])) == (0, 1)


def test_sessions_at_the_same_time_are_a_problem(tmp_path: Path) -> None:
    write(tmp_path, curve("loss", range(0, 40, 2)))
    write(tmp_path, curve("loss", range(1, 40, 2), BEGIN + 5), BEGIN + 5, NO_PROCESS + 1)
    code, found = doctor(tmp_path, "--repair")
    assert (code, problems(found)) == (1, ["sessions"])


def test_a_step_that_occurs_twice_is_a_note(tmp_path: Path) -> None:
    records = [scalar("eval/loss", 5, 1.0), scalar("eval/loss", 5, 2.0), scalar("eval/loss", 3, 1)]
    write(tmp_path, records)
    code, found = doctor(tmp_path)
    texts = [each["text"] for each in found["findings"] if each["check"] == "duplicates"]
    assert code == 0
    assert len(texts) == 2 and all("eval/loss at step" in each for each in texts)


def test_an_invalid_claim_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path, curve("loss", range(3)))
    (tmp_path / CLAIM).write_text("{}")
    assert problems(doctor(tmp_path)[1]) == ["claim"]


@pytest.mark.parametrize(("name", "check"), [(CLAIM, "claim"), ("health.jsonl", "lines")])
def test_a_file_without_permission_is_a_problem(
    name: str, check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torn(tmp_path)
    (tmp_path / name).write_text("{}")
    opened = LocalStorage.open

    def refused(storage: LocalStorage, path: str) -> BinaryIO:
        # Root, who often runs tests, may read every file.
        if path == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(storage, path)

    monkeypatch.setattr(LocalStorage, "open", refused)
    code, found = doctor(tmp_path)
    assert (code, problems(found)) == (1, ["records", check])
    assert "cannot be read (Permission denied)" in found["findings"][1]["text"]


def test_a_run_of_tbtrainer_is_sound(tmp_path: Path) -> None:
    path, _ = claim_run_directory(str(tmp_path / "run"), str(tmp_path))
    writer = RunWriter(path)
    for step in range(5):
        writer.add_scalar("loss", 1.0, step)
    writer.close()
    code, found = doctor(Path(path))
    assert (code, found["findings"]) == (0, [])
    moved = Path(path).rename(tmp_path / "moved")
    assert [each["severity"] for each in doctor(moved)[1]["findings"]] == ["note"]


def test_without_room_nothing_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torn(tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(LocalStorage, "free_bytes", lambda storage: 10.0)
    assert main(["doctor", str(tmp_path), "--repair"]) == 2
    assert "no room" in capsys.readouterr().err
    assert contents(tmp_path) == before
