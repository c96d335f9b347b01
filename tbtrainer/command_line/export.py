"""`tbtrainer export`: the scalars of a run at full resolution, as CSV, JSON lines or Parquet."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tbtrainer.command_line.exit_codes import FINE, UsageError
from tbtrainer.command_line.output import Output
from tbtrainer.command_line.progress import progress_bar
from tbtrainer.command_line.run_path import opened_run
from tbtrainer.command_line.scalar_formats import (
    ChunkWriter,
    ParquetWriter,
    csv_writer,
    json_writer,
)
from tbtrainer.command_line.tag_choice import add_tags_argument, matching
from tbtrainer.event_file.names import is_event_file
from tbtrainer.reading import Run
from tbtrainer.redaction import shown

DESCRIPTION = """\
Writes the scalars of a run at full resolution, one row each: tag, step, wall_time (seconds since
1970), value, session (0 for the first training, 1 after a resume, and so on).

Without --output they go to standard output. The memory needed does not grow with the run."""
EPILOG = """\
examples:
  tbtrainer export RUN --csv > run.csv
  tbtrainer export RUN --json --tags '^eval/' | head
  tbtrainer export RUN --parquet --output run.parquet

In Python, tbtrainer.read_run(RUN).scalars is the same as a pandas DataFrame."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="a run directory")
    formats = parser.add_mutually_exclusive_group(required=True)
    formats.add_argument("--csv", action="store_true", help="comma-separated, with a header")
    formats.add_argument("--json", action="store_true", help="one JSON object per line")
    formats.add_argument("--parquet", action="store_true", help="needs pyarrow and --output")
    parser.add_argument("-o", "--output", metavar="FILE", help="a file instead of standard output")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    add_tags_argument(parser, "only these scalars")
    parser.add_argument(
        "--include-rewound",
        action="store_true",
        help="also values that a resumed training has replaced",
    )


def run(options: argparse.Namespace, output: Output) -> int:
    """Exports a run."""
    if options.parquet and options.output is None:
        raise UsageError("--parquet needs --output FILE.")
    with progress_bar(f"exporting {shown(options.run)}") as advanced:
        opened = opened_run(options.run, include_rewound=options.include_rewound, advanced=advanced)
        if options.output is None:
            make = csv_writer if options.csv else json_writer
            _write(opened, make(output.write), options, output)
            return FINE
        with _new_file(options.output, options.overwrite) as path:
            count = _write_file(opened, path, options, output)
    print(f"{count:,} scalars written to {shown(options.output)}", file=sys.stderr)
    return FINE


def _write_file(run: Run, path: str, options: argparse.Namespace, output: Output) -> int:
    if options.parquet:
        return _write(run, ParquetWriter(path), options, output)
    with open(path, "w", encoding="utf-8", newline="") as file:
        make = csv_writer if options.csv else json_writer
        return _write(run, make(file.write), options, output)


def _write(run: Run, writer: ChunkWriter, options: argparse.Namespace, output: Output) -> int:
    """Writes the scalars. Returns how many there are; ends early if nobody reads the output."""
    tags = None
    if options.tags is not None:
        scalars = [tag for tag, info in run.tags().items() if info.kind == "scalar"]
        tags = matching(scalars, options.tags)
    count = 0
    for chunk in run.scalar_chunks(tags):
        writer.write(chunk)
        count += len(chunk)
        if output.is_closed:
            break
    writer.close()
    return count


@contextmanager
def _new_file(path: str, overwrite: bool) -> Iterator[str]:
    """Yields the name under which a file is written. It gets its own name when it is complete.

    Raises:
        UsageError: The file exists, or its name is that of an event file.
    """
    if is_event_file(os.path.basename(path)):
        raise UsageError(f"TensorBoard would read {shown(path)} as an event file; rename it.")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{shown(path)} exists; name another file, or add --overwrite.")
    part = f"{path}.{os.getpid()}.part"
    try:
        yield part
        os.replace(part, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)
