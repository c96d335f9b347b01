"""`tbtrainer doctor`: whether the files of a run are sound, and repairs."""

import argparse
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict

from tbtrainer.command_line import repair
from tbtrainer.command_line.checked_files import CheckedFiles
from tbtrainer.command_line.checkup import Checkup, check_run
from tbtrainer.command_line.exit_codes import BAD, FINE, UsageError
from tbtrainer.command_line.findings import Finding
from tbtrainer.command_line.output import Output
from tbtrainer.command_line.progress import Advanced, progress_bar
from tbtrainer.command_line.repair import Repair
from tbtrainer.command_line.run_path import the_run_at
from tbtrainer.command_line.terminal_text import shown_tag
from tbtrainer.command_line.writing_process import processes_that_write, writing_process
from tbtrainer.event_file.json_lines import MOST_BYTES, lines_of_a_run
from tbtrainer.event_file.names import is_remote, without_local_scheme
from tbtrainer.redaction import redacted_text, shown

DESCRIPTION = """\
Checks the files of a run: records that are incomplete or whose checksum is wrong, the order of the
files, values that a resumed training has replaced, sessions that wrote at the same time, steps that
occur twice, the last lines of health.jsonl and other files of JSON lines, and the claim, a small
file that says which training continues the run. Nothing is changed.

With --repair, what can be repaired is repaired. The old bytes of each file are kept beside it,
under a name that no loader reads. A run that a process is writing is not repaired, and links are
never followed."""
EPILOG = """\
examples:
  tbtrainer doctor RUN
  tbtrainer doctor RUN --repair

The exit code is 1 if there is a problem, and with --repair if one is left. Notes do not count: they
are worth knowing, and nothing is wrong."""
# A run that was changed so recently may be written by a process of another machine.
_RECENT_SECONDS = 600.0
# How long to wait for another process that rewinds or repairs the run.
_LOCK_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--repair", action="store_true", help="repair what can be, and keep the old bytes"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="repair also a run that another machine wrote in the last ten minutes",
    )


def run(options: argparse.Namespace, output: Output) -> int:
    """Checks a run, and repairs it on request. Returns `BAD` if a problem is left."""
    # What the reader warns of is among the findings.
    reader = logging.getLogger("tbtrainer.reading")
    level = reader.level
    reader.setLevel(logging.ERROR)
    try:
        return _run(options, output)
    finally:
        reader.setLevel(level)


def _run(options: argparse.Namespace, output: Output) -> int:
    path = without_local_scheme(the_run_at(options.run))
    files = CheckedFiles(os.path.expanduser(path))
    writers = _writers(files)
    with progress_bar(f"checking {shown(options.run)}") as advanced:
        checkup = check_run(files, bool(writers), advanced)
    repairs: list[Repair] = []
    if options.repair:
        _refuse_if_written(files, writers, options.force)
        with files.storage.lock(_LOCK_SECONDS), progress_bar("repairing") as advanced:
            # Another process may have rewound or repaired the run before the lock was held.
            repairs = list(_repaired(files, check_run(files, False, advanced), advanced))
            checkup = check_run(files, False, advanced)
    if options.json:
        output.json(
            {
                "run": redacted_text(options.run),
                "written_by": writers,
                "problems": checkup.problems,
                "findings": [finding.as_json() for finding in checkup.findings],
                "repairs": [asdict(each) for each in repairs],
            }
        )
    else:
        output.lines(_lines(options, checkup, repairs, writers))
    return BAD if checkup.problems else FINE


def _repaired(files: CheckedFiles, checkup: Checkup, advanced: Advanced | None) -> Iterator[Repair]:
    """Repairs a run, and yields what was done. Each kind of repair may show the next problem."""
    for check in checkup.folders.values():
        for name, damages in check.damages.items():
            yield repair.without_damages(files, name, damages, advanced)
    for finding in checkup.findings:
        if finding.check == "lines" and finding.repair:
            lines = lines_of_a_run(files.storage.read(finding.file, MOST_BYTES)) or []
            yield repair.whole_lines(files, finding.file, b"".join(lines))
    if repair.can_rename(files):
        for check in check_run(files, False, advanced).folders.values():
            yield from repair.in_order(files, check.in_order_of_time())
    for check in check_run(files, False, advanced).folders.values():
        for name in check.replaced_values:
            yield repair.without_replaced_values(files, check, name, advanced)


def _writers(files: CheckedFiles) -> list[int]:
    """Returns the ids of the processes of this machine that are writing the run."""
    if is_remote(files.path):
        return []
    return processes_that_write([os.path.join(files.path, name) for name in files.files()])


def _refuse_if_written(files: CheckedFiles, writers: list[int], force: bool) -> None:
    """Raises a `UsageError` if a process is writing the run, or may be."""
    if writers:
        named = " and ".join(map(str, writers))
        raise UsageError(
            f"Process {named} writes {shown(files.path)}. Repair it when the process has ended."
        )
    if force:
        return
    for name in files.files():
        process = writing_process(os.path.basename(name))
        age = time.time() - files.storage.modified(name)
        if age < _RECENT_SECONDS and (process is None or process.presence() == "unknown"):
            raise UsageError(
                f"{shown_tag(name)} was written {max(age, 0):.0f} seconds ago, by a process that "
                "cannot be looked for on this machine. Repair the run when the process has ended; "
                "if you know that it has, add --force."
            )


def _lines(
    options: argparse.Namespace, checkup: Checkup, repairs: list[Repair], writers: list[int]
) -> list[str]:
    notes = len(checkup.findings) - checkup.problems
    lines = [
        f"{shown(options.run)}: {_count(checkup.problems, 'problem')}, {_count(notes, 'note')}"
    ]
    if writers:
        lines.append(f"  process {' and '.join(map(str, writers))}, which writes it, is running")
    for each in repairs:
        lines.append(f"  repaired  {shown_tag(each.file)}: {each.action}")
        lines.append(f"            the old bytes are in {shown_tag(each.kept)}")
    for finding in checkup.findings:
        lines += _finding_lines(finding)
    if not options.repair and any(finding.repair for finding in checkup.findings):
        lines.append("With --repair this is repaired, and the old bytes are kept.")
    return lines


def _finding_lines(finding: Finding) -> list[str]:
    where = f"{shown_tag(finding.file)}: " if finding.file else ""
    lines = [f"  {finding.severity:<8}  {finding.check:<10}  {where}{finding.text}"]
    if finding.repair:
        lines.append(f"  {'':<8}  {'':<10}  --repair {finding.repair}")
    return lines


def _count(count: int, what: str) -> str:
    return f"{count or 'no'} {what}" + ("" if count == 1 else "s")
