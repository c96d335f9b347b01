"""A run of ten million records is read in bounded memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tbtrainer.event_file.records import file_header
from tbtrainer.reading.compiled_scan import load_library
from tests.event_bytes import scalar
from tests.limits import HANG_SECONDS

ROOT = Path(__file__).parents[2]
TAGS, REPEATS = 20, 500
RECORDS = 10_000_000

# The peak is that of the reading: what imports needed is forgotten.
READ = """
import json, re, sys
from pathlib import Path
from tbtrainer import read_run

def kibibytes(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

run = read_run(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")
before = kibibytes("VmRSS")
counts = {tag: info.count for tag, info in run.tags().items()}
scalars = sum(len(chunk) for chunk in run.scalar_chunks())
one = sum(chunk.value.sum() for chunk in run.scalar_chunks(["tag/3"]))
peak = (kibibytes("VmHWM") - before) / 1024
print(json.dumps([counts, scalars, one, run.files[0].unread_bytes, peak]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is Linux's")
@pytest.mark.skipif(load_library() is None, reason="takes minutes without the compiled scanner")
def test_ten_million_records_need_little_memory(tmp_path: Path) -> None:
    block = b"".join(
        scalar(f"tag/{record % TAGS}", record // TAGS, record % TAGS)
        for record in range(RECORDS // REPEATS)
    )
    with open(tmp_path / "events.out.tfevents.1700000000.host.1-0", "wb") as file:
        file.write(file_header(0))
        for _ in range(REPEATS):
            file.write(block)
        file.write(block[:30])
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    counts, scalars, one, unread, peak = json.loads(done.stdout)
    assert counts == {f"tag/{number}": RECORDS // TAGS for number in range(TAGS)}
    assert (scalars, one, unread) == (RECORDS, 3.0 * RECORDS / TAGS, 30)
    assert peak < 100
