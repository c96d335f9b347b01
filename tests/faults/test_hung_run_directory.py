"""A run directory on a mount whose every call hangs never keeps a training waiting."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.hung_directory import hung_directory, may_hang
from tests.limits import HANG_SECONDS

pytestmark = pytest.mark.skipif(not may_hang(), reason="needs the right to mount FUSE")
ROOT = Path(__file__).parents[2]

HANGS_DURING_TRAINING = """
import sys
from pathlib import Path
from transformers import TrainerCallback
from tbtrainer import TBTrainer, TBTrainingArguments
from tests.faults.hung_directory import hung_directory
from tests.tiny import arguments, trainer

class Hang(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            self.hung = hung_directory(Path(made.writer.log_dir))
            self.hung.__enter__()

args = arguments(
    TBTrainingArguments, Path(sys.argv[1]), logging_dir=sys.argv[2],
    save_strategy="steps", save_steps=4,
)
hang = Hang()
made = trainer(TBTrainer, args, callbacks=[hang])
made.train()
hang.hung.__exit__(None, None, None)
print("trained", made.state.global_step)
"""

HANGS_FROM_THE_START = """
import os
import sys
from pathlib import Path
import tbtrainer.run.time_limit
from tbtrainer import TBTrainer, TBTrainingArguments
from tests.tiny import arguments, trainer

tbtrainer.run.time_limit.OPEN_SECONDS = 0.5
args = arguments(TBTrainingArguments, Path(sys.argv[1]), logging_dir=sys.argv[2])
made = trainer(TBTrainer, args)
made.train()
print("trained", made.state.global_step, flush=True)
os._exit(0)
"""


def run(script: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )


def test_checkpoints_are_marked_while_the_run_directory_hangs(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    try:
        done = run(HANGS_DURING_TRAINING, tmp_path / "out", tmp_path / "run")
    finally:  # Of a process that was killed, the mount stays.
        subprocess.run(["umount", "--lazy", str(tmp_path / "run")], capture_output=True)
    assert "trained 10" in done.stdout, done.stderr
    for step in (4, 8, 10):
        assert (tmp_path / "out" / f"checkpoint-{step}" / "tensorboard_run.json").exists()


def test_a_directory_hung_from_the_start_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    with hung_directory(tmp_path / "mount"):
        done = run(HANGS_FROM_THE_START, tmp_path / "out", tmp_path / "mount" / "run")
    assert "trained 10" in done.stdout, done.stderr
    assert "no answer" in done.stderr
