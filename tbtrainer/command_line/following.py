"""Reads what is added to a run while it is written."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tbtrainer import tags
from tbtrainer.command_line.run_facts import card_of
from tbtrainer.command_line.terminal_text import shown_tag
from tbtrainer.reading import wire
from tbtrainer.reading.batch import Batch
from tbtrainer.reading.hparams import SESSION_END, SESSION_START, HParams, hparams_of
from tbtrainer.reading.run_files import event_files, folder_of
from tbtrainer.reading.scanner import Scan
from tbtrainer.reading.tag_table import TagTable
from tbtrainer.reading.values import decoded_or_none

logger = logging.getLogger(__name__)

# The cards that are shown as they come.
_TEXTS = (tags.HEALTH_REPORT.name, tags.VERDICT.name)


@dataclass
class Entry:
    """What was written at one step, one after the other.

    Attributes:
        step: The step.
        wall_time: When the first of it was written, in seconds since 1970.
        values: Scalars by tag.
        texts: Cards by tag.
    """

    step: int
    wall_time: float
    values: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


class RunFollower:
    """Reads a run again and again, each time from where it stopped.

    Args:
        path: The run directory.
        is_wanted: Whether a scalar's tag is shown.

    Attributes:
        files: The names of the event files at the last reading, in the order of the loaders.
        damaged: Names of files that cannot be read further, because a record is damaged.
    """

    def __init__(self, path: str, is_wanted: Callable[[str], bool]) -> None:
        self._folder = folder_of(path)
        self._is_wanted = is_wanted
        self._ends: dict[str, int] = {}
        self._table = TagTable()
        self._wanted: NDArray[np.bool_] = np.zeros(0, bool)
        self._hparams: dict[str, bytes] = {}
        self.files: list[str] = []
        self.damaged: set[str] = set()

    @property
    def hparams(self) -> HParams:
        """The hyper-parameters and the end status, as far as they were read."""
        return hparams_of(self._hparams)

    def read(self, most: int | None = None) -> list[Entry]:
        """Returns what was written since the last call.

        Args:
            most: The most entries, the latest ones; `None` for all.

        Raises:
            FileNotFoundError: The directory does not exist any more, or has no event files.
        """
        found: deque[Entry] = deque(maxlen=most)
        files = event_files(self._folder, with_removed=False)
        self.files = [file.name for file in files]
        for file in files:
            begin = self._ends.get(file.name, 0)
            # A file that became shorter was rewound. What is left of it has been shown.
            self._ends[file.name] = min(begin, file.bytes)
            if file.bytes <= begin or file.name in self.damaged:
                continue
            with self._folder.open(file.name) as opened:
                scan = Scan(opened, begin)
                for batch in scan:
                    self._add(batch, found, most)
            self._ends[file.name] = scan.end
            if scan.reason == "damaged":
                self.damaged.add(file.name)
                logger.warning(
                    "%s cannot be read further, because a record is damaged. What tbtrainer doctor "
                    "prints says where.",
                    shown_tag(file.name),
                )
        return list(found)

    def _add(self, batch: Batch, found: deque[Entry], most: int | None) -> None:
        numbers = self._table.numbers(batch)
        self._table.add_metadata(batch, numbers)
        rows = np.flatnonzero(batch.tag >= 0)
        tag = numbers[batch.tag[rows]] if len(rows) else np.zeros(0, np.int32)
        self._add_hparams(batch, rows, tag)
        chosen = self._are_shown(batch, rows, tag)
        rows, tag = rows[chosen], tag[chosen]
        begins = np.flatnonzero(np.diff(batch.step[rows], prepend=-1) != 0)
        if most is not None and len(begins) > most:
            first = begins[len(begins) - most] if most else len(rows)
            rows, tag = rows[first:], tag[first:]
        for row, number in zip(rows.tolist(), tag.tolist(), strict=True):
            step, name = int(batch.step[row]), self._table.names[number]
            if not found or found[-1].step != step or name in found[-1].values:
                found.append(Entry(step, float(batch.wall_time[row])))
            if card_of(name) in _TEXTS:
                found[-1].texts.update(_text(batch, row, card_of(name)))
            else:
                found[-1].values[name] = float(batch.value[row])

    def _are_shown(
        self, batch: Batch, rows: NDArray[np.int64], tag: NDArray[np.int32]
    ) -> NDArray[np.bool_]:
        """Returns which rows are scalars that are wanted, or cards that are shown."""
        names = self._table.names
        new = [
            card_of(name) in _TEXTS or self._is_wanted(name) for name in names[len(self._wanted) :]
        ]
        self._wanted = np.concatenate([self._wanted, np.array(new, bool)])
        is_text = np.array([card_of(name) in _TEXTS for name in names], bool)
        is_scalar = self._table.are_scalars(tag, batch.field[rows])
        is_card = is_text[tag] & (batch.field[rows] == wire.TENSOR)
        chosen: NDArray[np.bool_] = self._wanted[tag] & (is_scalar | is_card)
        return chosen

    def _add_hparams(self, batch: Batch, rows: NDArray[np.int64], tag: NDArray[np.int32]) -> None:
        names = self._table.names
        known = [
            number for number in set(tag.tolist()) if names[number] in (SESSION_START, SESSION_END)
        ]
        for row in rows[np.isin(tag, known)].tolist():
            name = batch.tags[batch.tag[row]].decode()
            # A training that resumes the run begins a session anew.
            if name == SESSION_START:
                self._hparams.pop(SESSION_END, None)
            content = decoded_or_none("hparams", batch.value_bytes(row))
            if isinstance(content, bytes):
                self._hparams[name] = content


def _text(batch: Batch, row: int, name: str) -> dict[str, str]:
    text = decoded_or_none("text", batch.value_bytes(row))
    return {name: text} if isinstance(text, str) else {}
