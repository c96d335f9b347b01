"""Checks of what lies beside the event files: the claim, files of lines, links and leftovers."""

import os
from collections.abc import Iterator

from tbtrainer.command_line.findings import Finding
from tbtrainer.command_line.terminal_text import shown_text
from tbtrainer.event_file.json_lines import JSON_LINES_END, MOST_BYTES, lines_of_a_run
from tbtrainer.event_file.names import CLAIM, is_event_file
from tbtrainer.event_file.storage_protocol import Storage, UnsuitableFile, is_staged
from tbtrainer.run.claim import Claim, real_path

# A longer file is not a claim.
_MOST_CLAIM_BYTES = 65_536


def claim_findings(storage: Storage, directory: str) -> Iterator[Finding]:
    """Yields what is wrong with the claim of a run directory.

    Args:
        storage: The directory.
        directory: Its path or URL.
    """
    if CLAIM not in storage.names():
        text = "there is no claim, so tbtrainer did not begin this run and never continues it"
        yield Finding("claim", "note", CLAIM, text)
        return
    try:
        claim = Claim.parsed(storage.read(CLAIM, _MOST_CLAIM_BYTES))
    except (UnsuitableFile, ValueError) as error:
        yield _unusable_claim(f"is not valid ({shown_text(str(error))})")
        return
    except OSError as error:
        yield _unusable_claim(f"cannot be read ({shown_text(error.strerror or str(error))})")
        return
    if not claim.is_at(real_path(directory)):
        text = "the run was moved or copied since a training last began in it"
        yield Finding("claim", "note", CLAIM, text)


def _unusable_claim(why: str) -> Finding:
    text = f"the claim {why}, so a training that resumes begins a new run instead of continuing it"
    return Finding("claim", "problem", CLAIM, text)


def lines_findings(storage: Storage) -> Iterator[Finding]:
    """Yields what is wrong with the files of JSON lines in a run directory."""
    for path in storage.files():
        if not path.endswith(JSON_LINES_END) or os.path.dirname(path):
            continue
        try:
            data = storage.read(path, MOST_BYTES)
        except UnsuitableFile as error:
            yield Finding("lines", "note", path, f"not checked: {shown_text(str(error))}")
            continue
        except OSError as error:
            text = f"the file cannot be read ({shown_text(error.strerror or str(error))})"
            yield Finding("lines", "problem", path, text)
            continue
        lines = lines_of_a_run(data)
        if lines is None:
            text = "not lines of tbtrainer, so no resume takes lines out of it"
            yield Finding("lines", "note", path, text)
        elif len(rest := data[len(b"".join(lines)) :]) > 0:
            text = f"the last line is incomplete ({len(rest):,} bytes)"
            yield Finding("lines", "problem", path, text, "cuts the incomplete line off")


def leftover_findings(storage: Storage) -> Iterator[Finding]:
    """Yields files that an interrupted rewind left, and what no loader of TensorBoard can read."""
    files = set(storage.files())
    for name in sorted(storage.names()):
        if is_event_file(name) and name not in files:
            yield Finding(
                "files",
                "problem",
                name,
                "named like an event file, but a link, a pipe or a directory; it was not looked "
                "into, while TensorBoard tries to read it",
            )
    for path in sorted(files):
        if is_staged(path):
            text = "an unfinished copy of a rewind that was interrupted; the next resume deletes it"
            yield Finding("files", "note", path, text)
