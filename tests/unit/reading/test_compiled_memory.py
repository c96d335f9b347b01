"""The compiled scanner touches no byte outside of its arrays, whatever is in a file."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tbtrainer.event_file.records import framed
from tests.event_bytes import forged, scalar
from tests.limits import HANG_SECONDS

ROOT = Path(__file__).parents[3]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that scans files, and ends with an error at the first wrong access."""
    program = tmp_path_factory.mktemp("driver") / "driver"
    source = ROOT / "tests" / "event_scan_driver.c"
    command = ["cc", "-std=c11", "-g", "-O1", *SANITIZERS, "-Wall", "-Wextra", "-Werror"]
    done = subprocess.run(
        [*command, "-o", str(program), str(source)],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    if "sanitize" in done.stderr or "lasan" in done.stderr or "lubsan" in done.stderr:
        pytest.skip("the C compiler has no sanitizers")
    assert done.returncode == 0, done.stderr
    return program


def changed(data: bytes, number: random.Random) -> bytes:
    """An event file of which some bytes are others; most checksums are right again."""
    records = []
    while data:
        size = int.from_bytes(data[:8], "little")
        payload = bytearray(data[12 : 12 + size])
        for _ in range(number.randrange(4) if payload else 0):
            payload[number.randrange(len(payload))] = number.choice((0, 1, 127, 128, 255, 10, 66))
        records.append(framed(bytes(payload)))
        data = data[16 + size :]
    whole = b"".join(records)
    end = forged(number.choice((0, 1, 2**31, 2**63 - 16, 2**63, 2**64 - 1)))
    return number.choice((whole, whole[: number.randrange(len(whole))], whole + end))


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_no_file_makes_the_scanner_leave_its_arrays(
    driver: Path, tmp_path: Path, rows: int
) -> None:
    number = random.Random(rows)
    real = sorted((ROOT / "tests" / "foreign_runs").rglob("*tfevents*"))
    whole = [path.read_bytes() for path in real]
    whole.append(b"".join(scalar(f"tag {step}", step, step) for step in range(20)))
    files = []
    for place in range(300):
        files.append(tmp_path / str(place))
        files[-1].write_bytes(changed(number.choice(whole), number))
    done = subprocess.run(
        [str(driver), str(rows), *map(str, [*real, *files])],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(real) + len(files)
