"""A process killed at any moment leaves files that read well, and a run that can go on."""

import os
import random
import signal
import time
from pathlib import Path

from tbtrainer.run import RunWriter, rewind
from tests.events import event_files, scalars, values

KILLS = 100


def write_until_killed(run: Path, progress: int) -> None:
    """What the child does: log, flush, and say how far it is."""
    writer = RunWriter(str(run))
    for step in range(100_000):
        writer.add_scalar("value", step, step)
        writer.add_histogram_raw("weights", 0, 1, 8, 4, 3, [1.0] * 64, [1.0] * 64, step)
        writer.flush()
        os.write(progress, b"%d\n" % step)


def test_after_kill_nine_all_that_was_logged_is_readable(tmp_path: Path) -> None:
    chance = random.Random(0)
    for kill in range(KILLS):
        run = tmp_path / str(kill)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            write_until_killed(run, writing)
        os.close(writing)
        with open(reading) as progress:
            progress.readline()
            time.sleep(chance.random() * 0.05)
            os.kill(child, signal.SIGKILL)
            logged = [0, *(int(line) for line in progress.read().split("\n")[:-1])]
        os.waitpid(child, 0)
        (file,) = event_files(run)
        read = [step for _, step, _ in scalars(file)]
        assert read == list(range(len(read)))
        assert read[-1] >= logged[-1]
        rewind(str(run), read[-1])
        assert [step for _, step, _ in scalars(event_files(run)[0])] == read


def test_fifty_crashes_and_resumes_leave_one_curve(tmp_path: Path) -> None:
    chance = random.Random(1)
    checkpoint, cycles = 0, 0
    while cycles < 50 or checkpoint < 500:
        rewind(str(tmp_path), checkpoint)
        writer = RunWriter(str(tmp_path), purge_step=checkpoint + 1)
        end = min(checkpoint + chance.randint(1, 25), 500)
        for step in range(checkpoint + 1, end + 1):
            writer.add_scalar("value", step / 7, step)
            writer.add_scalar(f"orphan/{cycles}", 1, end + 1)
        writer.close()
        # Not everything is in the checkpoint that the next one resumes from.
        checkpoint = chance.randint(checkpoint, end) if cycles < 50 else end
        cycles += 1
    shown = [(v.tag, step) for file in event_files(tmp_path) for step, v in values(file)]
    curve = [step for tag, step in shown if tag == "value"]
    assert curve == list(range(1, 501))
    assert {tag for tag, _ in shown} <= {"value", f"orphan/{cycles - 1}"}
