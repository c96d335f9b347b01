"""Runs of many records are read, and exported, in bounded memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

from tbtrainer.event_file.records import file_header, framed
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


EXPORT = """
import json, re, sys
from pathlib import Path
from tbtrainer.command_line.main import main

def kibibytes(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

run, output = sys.argv[1:]
main(["export", run, "--what", "tags", "--csv", "--output", f"{output}.tags"])
Path("/proc/self/clear_refs").write_text("5")
before = kibibytes("VmRSS")
code = main(["export", run, "--what", "histograms", "--json", "--output", output])
print(json.dumps([code, (kibibytes("VmHWM") - before) / 1024]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is Linux's")
def test_an_export_of_many_histograms_needs_little_memory(tmp_path: Path) -> None:
    limits = [number / 7 for number in range(64)]
    histogram = HistogramProto(min=-1, max=9, num=64, bucket_limit=limits, bucket=[1.0] * 64)
    event = Event(summary=Summary(value=[Summary.Value(tag="parameters/a", histo=histogram)]))
    with open(tmp_path / "events.out.tfevents.1700000000.host.1-0", "wb") as file:
        file.write(file_header(0) + framed(event.SerializeToString()) * 60_000)
    output = tmp_path / "histograms.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, str(tmp_path), str(output)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    code, peak = json.loads(done.stdout)
    with open(output) as file:
        assert sum(1 for _ in file) == 60_000
    # The text alone has more than 100 MiB.
    assert (code, output.stat().st_size > 100 * 2**20) == (0, True)
    assert peak < 90, peak
