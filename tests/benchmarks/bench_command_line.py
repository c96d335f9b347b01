"""Seconds and peak memory of the command line on a run of many scalars, each command by itself.

python tests/benchmarks/bench_command_line.py --records 10000000
"""

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tbtrainer.event_file.names import event_file_name
from tbtrainer.event_file.records import file_header, framed

TAGS = 100
DAMAGED = "doctor, after a byte was changed"
COMMANDS: dict[str, tuple[str, ...]] = {
    "show": ("show", "RUN"),
    "export --csv": ("export", "RUN", "--csv", "--overwrite", "--output", "scalars.csv"),
    "export --json": ("export", "RUN", "--json", "--overwrite", "--output", "scalars.jsonl"),
    "export --parquet": (
        *("export", "RUN", "--parquet", "--overwrite"),
        *("--output", "scalars.parquet"),
    ),
    "tail": ("tail", "RUN", "--no-follow"),
    "doctor": ("doctor", "RUN"),
    DAMAGED: ("doctor", "RUN"),
    "doctor --repair": ("doctor", "RUN", "--repair", "--force"),
}


def varint(number: int) -> bytes:
    """A number as protobuf stores it."""
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def scalar(tag: bytes, step: int, wall_time: float, value: float) -> bytes:
    """The record of one scalar. Made by hand, because protobuf takes many times as long."""
    inner = b"\x0a" + varint(len(tag)) + tag + b"\x15" + struct.pack("<f", value)
    summary = b"\x0a" + varint(len(inner)) + inner
    event = b"\x09" + struct.pack("<d", wall_time) + b"\x10" + varint(step)
    return framed(event + b"\x2a" + varint(len(summary)) + summary)


def written(directory: Path, records: int) -> None:
    """Writes two sessions, each with an incomplete record at its end.

    The second session repeats the last hundredth of the steps of the first.
    """
    steps = records // TAGS
    half = steps // 2
    tags = [f"group_{number // 10}/metric_{number}".encode() for number in range(TAGS)]
    names: list[str] = []
    for begin, end in ((0, half + steps // 100), (half, steps)):
        name = event_file_name(names, len(names))
        # Of no process of this machine.
        names.append(name.rsplit(".", 1)[0] + f".{2**22 + len(names)}-0")
        with open(directory / names[-1], "wb") as file:
            file.write(file_header(None))
            for step in range(begin, end):
                moment = 1.7e9 + step + 10 * steps * (len(names) - 1)
                file.write(b"".join(scalar(tag, step, moment, 1.0 / (step + 1)) for tag in tags))
            file.write(scalar(tags[0], end, 1.7e9, 0.0)[:-3])


def flip_a_byte(file: Path) -> None:
    """Damages one record in the middle of a file."""
    with open(file, "r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)
        opened.seek(-1, 1)
        opened.write(bytes([byte[0] ^ 255]))


def measured(command: tuple[str, ...], run: Path, place: Path) -> tuple[float, float, int]:
    """Seconds, peak memory in MiB and exit code of a command."""
    words = [sys.executable, "-m", "tbtrainer", *(str(run) if w == "RUN" else w for w in command)]
    began = time.perf_counter()
    process = subprocess.Popen(
        words, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - began, usage.ru_maxrss / 1024, process.returncode


def main() -> None:
    """Makes the run and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--directory", type=Path, help="where the run is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        place = Path(directory)
        run = place / "run"
        run.mkdir()
        written(run, options.records)
        first = min(run.iterdir())
        size = sum(file.stat().st_size for file in run.iterdir())
        print(f"{options.records:,} scalars of {TAGS} tags, {size / 2**20:,.0f} MiB")
        print("| command | seconds | peak memory, MiB | exit code |")
        print("|---|---|---|---|")
        for name, command in COMMANDS.items():
            if name == DAMAGED:
                flip_a_byte(first)
            seconds, memory, code = measured(command, run, place)
            print(f"| {name} | {seconds:.1f} | {memory:.0f} | {code} |", flush=True)
        run = place / "small"
        run.mkdir()
        written(run, 10 * TAGS)
        seconds, memory, code = measured(COMMANDS["show"], run, place)
        print(f"| show, of {10 * TAGS:,} scalars | {seconds:.1f} | {memory:.0f} | {code} |")


if __name__ == "__main__":
    main()
