"""All checks of `tbtrainer doctor`, and what they find."""

from collections.abc import Iterator
from dataclasses import dataclass

from tbtrainer.command_line.checked_files import CheckedFiles
from tbtrainer.command_line.findings import Finding
from tbtrainer.command_line.folder_check import FolderCheck, check_folder
from tbtrainer.command_line.other_files import (
    claim_findings,
    leftover_findings,
    lines_findings,
)
from tbtrainer.command_line.progress import Advanced
from tbtrainer.command_line.terminal_text import shown_tag

# How many tags, files or places a finding names.
_NAMED = 3


@dataclass(frozen=True)
class Checkup:
    """What is known of a run after all checks.

    Attributes:
        findings: Problems first.
        folders: What was found in the event files, by folder.
    """

    findings: tuple[Finding, ...]
    folders: dict[str, FolderCheck]

    @property
    def problems(self) -> int:
        """How many of the findings are problems."""
        return sum(finding.severity == "problem" for finding in self.findings)


def check_run(files: CheckedFiles, is_live: bool, advanced: Advanced | None = None) -> Checkup:
    """Checks the files of a run. Nothing is changed, and no link is followed.

    Args:
        files: The run directory.
        is_live: Whether a process is writing the run. The end of a file may then be half a record.
        advanced: Called while the files are read.
    """
    folders = {
        folder: check_folder(files, event_files, advanced)
        for folder, event_files in files.event_files().items()
    }
    findings = [
        *(finding for check in folders.values() for finding in folder_findings(check, is_live)),
        *leftover_findings(files.storage),
        *lines_findings(files.storage),
        *claim_findings(files.storage, files.path),
    ]
    findings.sort(key=lambda finding: finding.severity != "problem")
    return Checkup(tuple(findings), folders)


def folder_findings(check: FolderCheck, is_live: bool) -> Iterator[Finding]:
    """Yields what is wrong with the event files of one folder."""
    yield from _record_findings(check, is_live)
    yield from _order_findings(check)
    yield from _session_findings(check)
    yield from _duplicate_findings(check)


def _record_findings(check: FolderCheck, is_live: bool) -> Iterator[Finding]:
    for file in check.index.files:
        if file.reason == "unreadable":
            yield Finding("records", "problem", file.name, "the file cannot be read")
        elif not file.bytes:
            yield Finding("files", "note", file.name, "the file is empty")
        damages = check.damages.get(file.name, [])
        after = sum(damage.events_after for damage in damages)
        inner = [damage for damage in damages if damage.end < file.bytes]
        if len(inner) < len(damages):
            yield _torn(file.name, damages[-1].begin, file.bytes, is_live)
        if inner:
            places = ", ".join(f"{damage.begin:,}" for damage in inner[:_NAMED])
            more = f" and {len(inner) - _NAMED} more places" if len(inner) > _NAMED else ""
            yield Finding(
                "records",
                "problem",
                file.name,
                f"a checksum is wrong at byte {places}{more}; no loader reads the {after:,} whole "
                "records that follow",
                "takes the damaged bytes out, so that what follows is read again",
            )


def _torn(file: str, begin: int, end: int, is_live: bool) -> Finding:
    text = f"the last record is incomplete ({end - begin:,} bytes from byte {begin:,})"
    if is_live:
        return Finding("records", "note", file, f"{text}; it is being written")
    return Finding("records", "problem", file, text, "cuts the incomplete record off")


def _order_findings(check: FolderCheck) -> Iterator[Finding]:
    names = [file.name for file in check.index.files]
    for name, expected in zip(names, check.in_order_of_time(), strict=True):
        if name != expected:
            yield Finding(
                "order",
                "problem",
                name,
                "loaders read files in the order of their names, and by its name this one comes "
                f"before {shown_tag(expected)}, which was begun earlier and has earlier steps",
                "renames files, so that the order of their names is that of their times",
            )
            return


def _session_findings(check: FolderCheck) -> Iterator[Finding]:
    for file, count in check.replaced_values.items():
        yield Finding(
            "sessions",
            "problem",
            file,
            f"{count:,} values were replaced by a later session that began at an earlier step; "
            "TensorBoard may show both",
            "takes the replaced values out",
        )
    pairs = check.at_the_same_time()
    if pairs:
        session, other = pairs[0]
        more = f" ({len(pairs) - 1:,} more pairs of files likewise)" if len(pairs) > 1 else ""
        yield Finding(
            "sessions",
            "problem",
            other.files[0],
            f"written at the same time as {shown_tag(session.files[0])}, with the same tags{more}; "
            "end one of the processes if both still run, and give each run a directory of its own",
        )


def _duplicate_findings(check: FolderCheck) -> Iterator[Finding]:
    repeats = check.repeats
    names = check.index.tags.names
    for counts, what in (
        (repeats.repeated, "have the step of the value before, and another value"),
        (repeats.backward, "have an earlier step than a value before"),
    ):
        tags = [number for number, count in enumerate(counts.tolist()) if count]
        if tags:
            where = ", ".join(
                f"{shown_tag(names[number])} at step {repeats.first_repeated[number]}"
                for number in tags[:_NAMED]
            )
            more = f", and {len(tags) - _NAMED} more tags" if len(tags) > _NAMED else ""
            yield Finding(
                "duplicates",
                "note",
                "",
                f"{int(counts.sum()):,} scalars {what}: first {where}{more}",
            )
