"""Which starts of torchrun a selection of tests needs."""

import re
import subprocess
import sys

from tests.distributed.launch import ROOT
from tests.limits import HANG_SECONDS

PLAN = """
import sys, pytest
for name in sys.argv[1].split():
    sys.modules[name] = None  # As if it were not installed.
sys.exit(pytest.main(["tests/distributed/test_sharding_modes.py", "--setup-plan", *sys.argv[2:]]))
"""


def plan(*options: str, missing: str = "") -> tuple[set[str], str]:
    """Returns the starts that pytest would make with these options, and what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", PLAN, missing, "-p", "no:cacheprovider", *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return set(re.findall(r"SETUP +M started\['([^']+)'\]", done.stdout)), done.stdout


def test_a_selection_makes_only_the_starts_it_needs() -> None:
    assert plan("-k", "zero3")[0] == {"zero3"}


def test_without_deepspeed_only_its_own_modes_are_skipped() -> None:
    starts, printed = plan(missing="deepspeed")
    assert starts == {"torch", "mesh"}
    assert "DeepSpeed is not installed" in printed
