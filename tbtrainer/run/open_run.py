"""An open run: its writer, its files of JSON lines, its id, and the texts that it already shows."""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tbtrainer.dashboard_records import ChartLayout, HParamsColumns, HParamsEnd, HParamsRow
from tbtrainer.event_file.json_lines import json_line
from tbtrainer.event_file.json_lines_writer import JsonLinesWriter
from tbtrainer.event_file.waiting import CLOSE_SECONDS
from tbtrainer.records import (
    Embedding,
    HistogramRecord,
    Image,
    JsonLine,
    PrCurve,
    Records,
    Scalar,
    Text,
)
from tbtrainer.redaction import redacted_card, shown
from tbtrainer.run import hparams
from tbtrainer.run.chart_layout import LAYOUT_TAG, layout_summary
from tbtrainer.run.mirrors import Mirrors
from tbtrainer.run.observer_states import ObserverStates
from tbtrainer.run.projector import Projector
from tbtrainer.run.rewind import remove_summaries
from tbtrainer.run.saved_run import SavedRun
from tbtrainer.run.summary_writer import RunWriter
from tbtrainer.run.time_limit import while_opening

logger = logging.getLogger(__name__)

# The most files of JSON lines of a run. Each needs a thread.
MOST_LINES_FILES = 16


@dataclass
class OpenRun:
    """The current run of a session.

    Attributes:
        writer: Its writer.
        run_id: The id in its claim; empty if its directory could not be claimed.
        output_dir: The training's `output_dir` when the run was opened, absolute.
        file_mode: Permissions of local files of JSON lines, before the process's umask.
        sync: Whether files of JSON lines are forced to the disk with each line.
        cards: Digests of what is written only if it has changed, by tag.
        earlier: Tags of `cards` that an earlier session has written, and not yet this one.
        lines: The writers of its files of JSON lines, by the name of the file.
        mirrors: Pass scalars and histograms on to other trackers.
        states: Writes the states of observers to checkpoints.
        projector: Writes the files of the Projector.
    """

    writer: RunWriter
    run_id: str
    output_dir: str
    file_mode: int = 0o666
    sync: bool = False
    cards: dict[str, str] = field(default_factory=dict)
    earlier: set[str] = field(default_factory=set)
    lines: dict[str, JsonLinesWriter] = field(default_factory=dict)
    mirrors: Mirrors = field(default_factory=Mirrors)
    states: ObserverStates = field(default_factory=ObserverStates)
    projector: Projector = field(init=False)
    _has_ended: bool = False
    # When the training of its row began.
    _began: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.projector = Projector(str(self.writer.log_dir), self.file_mode)

    def write(self, records: Records, step: int) -> None:
        """Writes records at `step`. Secrets in texts are replaced by `<hidden>`.

        Vectors are written after the other records, because only they raise an error of the disk.

        Raises:
            TypeError: One of the values is not a record.
            ValueError: A line has values that JSON cannot hold, or is for one file too many.
        """
        embeddings = []
        for record in records:
            if isinstance(record, Text):
                self._write_text(record, step)
            elif isinstance(record, HistogramRecord):
                fields = record.histogram.raw_fields()
                self.writer.add_histogram_raw(record.tag, **fields, global_step=step)
            elif isinstance(record, Scalar):
                self.writer.add_scalar(record.tag, record.value, step)
            elif isinstance(record, Image):
                self.writer.add_image(record.tag, record.pixels, step, dataformats="HWC")
            elif isinstance(record, PrCurve):
                fields = record.raw_fields()
                self.writer.add_pr_curve_raw(record.tag, **fields, global_step=step)
            elif isinstance(record, Embedding):
                embeddings.append(record)
            elif isinstance(record, ChartLayout):
                self._write_layout(record)
            elif isinstance(record, HParamsRow | HParamsColumns | HParamsEnd):
                self._write_hparams(record)
            elif isinstance(record, JsonLine):
                line = json_line(record.values, step, time.time())
                self._lines_writer(record.file).put(line)
            else:
                # Not the value itself, which may contain a secret.
                raise TypeError(
                    f"a {type(record).__name__} is not a record; return a Scalar, a Text, a "
                    "HistogramRecord, an Image, a PrCurve, an Embedding or a JsonLine of "
                    "tbtrainer.records."
                )
            self.mirrors.put(record, step)
        for embedding in embeddings:
            self.projector.write(embedding, step)

    def continues(self, cards: Mapping[str, str]) -> None:
        """Takes note of what earlier sessions of the run have written.

        Args:
            cards: Their digests, as the marker of a checkpoint holds them.
        """
        self.cards.update(cards)
        self.earlier.update(cards)

    def mark(self, checkpoint: str, step: int, observers: Mapping[str, Any]) -> None:
        """Writes the marker of a checkpoint, with the states of observers."""
        directory = str(self.writer.log_dir)
        saved = SavedRun.of(directory, self.run_id, checkpoint, step, self.cards)
        self.states.added_to(saved, observers).write(checkpoint)

    # ---- Flushing and closing: one limit holds for all files together ----

    def flush(self, wait_seconds: float | None) -> None:
        """Flushes the event files and the files of JSON lines; see `RunSession.flush`.

        It does not wait for other trackers.
        """
        self.mirrors.flush()
        if wait_seconds is None:
            # The threads of the files of lines write without delay, and a log call waits for none.
            self.writer.flush()
            return
        deadline = time.monotonic() + wait_seconds
        writers = list(self.lines.values())  # Another thread may add one meanwhile.
        for lines in writers:
            lines.flush(0.0)
        self.writer.flush(wait_seconds)
        for lines in writers:
            lines.flush(max(0.0, deadline - time.monotonic()))

    def release(self) -> None:
        """Closes all files until the next record. Tools that follow the run see no end."""
        self._close_with(self.writer.release)

    def close(self) -> None:
        """Closes all files, and ends the run for tools that follow it."""
        self._close_with(self.writer.close)

    def _close_with(self, close_writer: Callable[[], None]) -> None:
        deadline = time.monotonic() + CLOSE_SECONDS
        writers = list(self.lines.values())
        for lines in writers:
            lines.begin_close()
        close_writer()
        for lines in writers:
            lines.end_close(max(0.0, deadline - time.monotonic()))
        self.mirrors.close(max(0.0, deadline - time.monotonic()))

    # ---- Texts and lines ----

    def _write_text(self, record: Text, step: int) -> None:
        text = redacted_card(record.text, record.tag)
        if not record.once or self._is_new(record.tag, text.encode(errors="surrogatepass")):
            self.writer.add_text(record.tag, text, step)

    def _write_layout(self, layout: ChartLayout) -> None:
        # TensorBoard takes the last layout of a run, and a user's own one is meant.
        if any(name.startswith("add_custom_scalars") for name in self.writer.called):
            return
        summary = layout_summary(layout)
        if self._is_new(LAYOUT_TAG, summary.SerializeToString(deterministic=True)):
            self.writer.write_summary(summary)

    def _write_hparams(self, record: HParamsRow | HParamsColumns | HParamsEnd) -> None:
        if isinstance(record, HParamsRow):
            row = hparams.shown_row(record)
            self._began = row.began
            content = hparams.comparable_row(row)
            self._write_first(hparams.ROW_TAG, content, hparams.row_summary(row))
        elif isinstance(record, HParamsColumns):
            own = hparams.experiment_of(record)
            shared = self.writer.added_hparams.own_columns(own, self._began)
            content = own.SerializeToString(deterministic=True)
            self._write_first(hparams.COLUMNS_TAG, content, hparams.experiment_summary(shared))
            self.writer.added_hparams.refresh()
        elif hparams.ROW_TAG in self.cards and not self._has_ended:
            self._has_ended = True
            self.writer.write_summary(hparams.end_summary(record))

    def _write_first(self, tag: str, content: bytes, summary: Any) -> None:
        """Writes a summary of a tag of which TensorBoard takes the first one in a run.

        If an earlier session has written another one, that one is taken out first.
        """
        if tag not in self.cards:
            self._is_new(tag, content)
            self.writer.write_summary(summary)
        elif tag in self.earlier and self.cards[tag] != _digest(content):
            directory = str(self.writer.log_dir)
            try:
                while_opening(remove_summaries, directory, tag)
            except Exception as error:  # Every object store has exceptions of its own.
                logger.warning(
                    "TensorBoard's HParams dashboard shows the values of an earlier session of %s, "
                    "because they could not be taken out (%s). All else is shown.",
                    shown(directory),
                    shown(error),
                )
                return
            self._is_new(tag, content)
            self.writer.write_summary(summary)

    def _is_new(self, tag: str, content: bytes) -> bool:
        """Returns whether something is not what the run shows already, and takes note of it."""
        digest = _digest(content)
        if self.cards.get(tag) == digest:
            return False
        self.cards[tag] = digest
        self.earlier.discard(tag)
        return True

    def _lines_writer(self, name: str) -> JsonLinesWriter:
        if name not in self.lines:
            if len(self.lines) >= MOST_LINES_FILES:
                raise ValueError(
                    f"a run has at most {MOST_LINES_FILES} files of JSON lines; {name!r} would be "
                    "one more. Use one file for all lines of an observer."
                )
            directory = str(self.writer.log_dir)
            writer = JsonLinesWriter(directory, name, self.file_mode, self.sync)
            # Atomic: deferred records are written by another thread than the training's.
            self.lines.setdefault(name, writer)
        return self.lines[name]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
