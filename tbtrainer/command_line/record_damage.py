"""Where the records of an event file are torn or damaged, and where whole ones continue."""

from dataclasses import dataclass
from typing import BinaryIO

from tbtrainer.command_line.progress import Advanced
from tbtrainer.command_line.record_search import next_whole_record
from tbtrainer.event_file.records import size_of
from tbtrainer.reading.scanner import Scan

# After so many damaged places a file counts as damaged to its end.
MOST_PLACES = 1000
# Behind a damaged place little is read at a time, because the next one may be near.
_PIECE_BYTES = 2**16


@dataclass(frozen=True)
class Damage:
    """A part of an event file that is no whole record.

    Attributes:
        begin: Where it begins, in bytes.
        end: Where the next whole record begins, or the size of the file.
        events_after: How many whole records follow before the next damage. No loader reads them.
    """

    begin: int
    end: int
    events_after: int


def damages_of(file: BinaryIO, begin: int, advanced: Advanced | None = None) -> list[Damage]:
    """Returns the damaged parts of an event file, in order.

    Args:
        file: Open for reading. It can seek.
        begin: Where the first one begins: the `end` of a `Scan` that stopped there.
        advanced: Called with how many bytes of the file have been read.
    """
    found: list[Damage] = []
    size = size_of(file)
    while begin < size:
        end = next_whole_record(file, begin + 1) if len(found) < MOST_PLACES else None
        if end is None:
            return [*found, Damage(begin, size, 0)]
        scan = Scan(file, end, piece_bytes=_PIECE_BYTES)
        events = 0
        for batch in scan:
            events += batch.events
            if advanced is not None:
                advanced(scan.end, size)
        found.append(Damage(begin, end, events))
        if not scan.reason:
            break
        begin = scan.end
    return found
