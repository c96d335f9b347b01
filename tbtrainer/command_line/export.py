"""`tbtrainer export`: what a run holds at full resolution, as CSV, JSON lines or Parquet."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from tbtrainer.command_line.exit_codes import FINE, UsageError
from tbtrainer.command_line.export_tables import TABLES, Table, table_of, wanted_tags
from tbtrainer.command_line.image_folder import new_folder, with_files
from tbtrainer.command_line.output import Output
from tbtrainer.command_line.progress import progress_bar
from tbtrainer.command_line.run_path import opened_run
from tbtrainer.command_line.table_formats import CsvWriter, JsonWriter, ParquetWriter, TableWriter
from tbtrainer.command_line.tag_choice import add_tags_argument
from tbtrainer.event_file.names import is_event_file
from tbtrainer.reading import TableChunk
from tbtrainer.redaction import shown

DESCRIPTION = """\
Writes what a run holds as a table, at full resolution. By default these are the scalars, one row
each: tag, step, wall_time (seconds since 1970), value, session (0 for the first training, 1 after a
resume, and so on). --what chooses another table:

  scalars      every value of every curve
  histograms   count, min, max, mean, std, rms, the quantiles p1 to p99, and the buckets
  texts        cards, such as the arguments and the model
  images       width, height and the file of each picture, which --folder keeps
  pr_curves    precision and recall, a row per threshold
  tags         what the run holds: kind, count, steps and description of each tag
  hparams      the hyper-parameters
  health       the reports about NaN and infinities
  sessions     each training, and each part of one that was resumed

Without --output it goes to standard output. The memory needed does not grow with the run."""
EPILOG = """\
examples:
  tbtrainer export RUN --csv > run.csv
  tbtrainer export RUN --json --tags '^eval/' | head
  tbtrainer export RUN --what histograms --parquet --output histograms.parquet
  tbtrainer export RUN --what images --csv --folder pictures

In Python, tbtrainer.read_run(RUN).scalars is the same as a pandas DataFrame."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="a run directory")
    # Not `choices`: with --json the error is then JSON, too.
    parser.add_argument(
        "--what", metavar="TABLE", default="scalars", help=f"one of {', '.join(TABLES)}"
    )
    formats = parser.add_mutually_exclusive_group(required=True)
    formats.add_argument("--csv", action="store_true", help="comma-separated, with a header")
    formats.add_argument("--json", action="store_true", help="one JSON object per line")
    formats.add_argument("--parquet", action="store_true", help="needs pyarrow and --output")
    parser.add_argument("-o", "--output", metavar="FILE", help="a file instead of standard output")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument(
        "--folder", metavar="DIR", help="a new folder for the pictures of --what images"
    )
    add_tags_argument(parser, "only these tags")
    parser.add_argument(
        "--include-rewound",
        action="store_true",
        help="also values that a resumed training has replaced",
    )


def run(options: argparse.Namespace, output: Output) -> int:
    """Exports a run."""
    table = table_of(options.what)
    _check(options)
    with ExitStack() as stack:
        advanced = stack.enter_context(progress_bar(f"exporting {shown(options.run)}"))
        opened = opened_run(options.run, include_rewound=options.include_rewound, advanced=advanced)
        chunks: Iterable[TableChunk] = table.chunks(
            opened, wanted_tags(table, opened, options.tags)
        )
        if options.folder is not None:
            chunks = with_files(chunks, stack.enter_context(new_folder(options.folder)))
        if options.output is None:
            count = _printed(chunks, table, options, output)
        else:
            path = stack.enter_context(_new_file(options.output, options.overwrite))
            count = _written(chunks, table, options, path)
    _report(count, table, options, output)
    return FINE


def _check(options: argparse.Namespace) -> None:
    """Checks that the options belong together.

    Raises:
        UsageError: They do not.
    """
    if options.parquet and options.output is None:
        raise UsageError("--parquet needs --output FILE.")
    if options.what == "images" and options.folder is None:
        raise UsageError("--what images needs --folder DIR, a new folder for the pictures.")
    if options.what != "images" and options.folder is not None:
        raise UsageError("--folder can be used with --what images only.")


def _printed(
    chunks: Iterable[TableChunk], table: Table, options: argparse.Namespace, output: Output
) -> int:
    """Prints rows, and returns how many. Ends early if the reader of the output has gone."""
    make = CsvWriter if options.csv else JsonWriter
    writer, count = make(output.write, table.columns), 0
    for chunk in chunks:
        writer.write(chunk)
        count += len(chunk)
        # The folder of pictures is filled all the same.
        if output.is_closed and options.folder is None:
            break
    writer.close()
    return count


def _written(
    chunks: Iterable[TableChunk], table: Table, options: argparse.Namespace, path: str
) -> int:
    """Writes rows into a file, and returns how many."""
    if options.parquet:
        return _write_all(chunks, ParquetWriter(path, table.columns))
    with open(path, "w", encoding="utf-8", newline="") as file:
        make = CsvWriter if options.csv else JsonWriter
        return _write_all(chunks, make(file.write, table.columns))


def _write_all(chunks: Iterable[TableChunk], writer: TableWriter) -> int:
    count = 0
    for chunk in chunks:
        writer.write(chunk)
        count += len(chunk)
    writer.close()
    return count


def _report(count: int, table: Table, options: argparse.Namespace, output: Output) -> None:
    """Prints on standard error what was written where, or that there was nothing."""
    if not count and not output.is_closed:
        print(f"{shown(options.run)} has no {table.rows}.", file=sys.stderr)
    elif options.output is not None:
        print(f"{count:,} {table.rows} written to {shown(options.output)}", file=sys.stderr)
    if count and options.folder is not None:
        print(f"{count:,} pictures written to {shown(options.folder)}", file=sys.stderr)


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
