"""What `tbtrainer doctor` finds."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

# A problem hides records from TensorBoard or shows them wrongly. A note is worth knowing.
Severity = Literal["problem", "note"]
Check = Literal["files", "records", "order", "sessions", "duplicates", "lines", "claim"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run, or worth knowing.

    Attributes:
        check: Which check found it.
        severity: A problem makes the exit code 1, a note does not.
        file: The file that it is about, relative to the run directory; empty for the run.
        text: What was found, in one sentence, printable and without secrets.
        repair: What `--repair` does about it; empty if it does nothing.
    """

    check: Check
    severity: Severity
    file: str
    text: str
    repair: str = ""

    def as_json(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return asdict(self)
