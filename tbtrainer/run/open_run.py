"""An open run: its writer, its id, and the texts that it already shows."""

import hashlib
from dataclasses import dataclass, field

from tbtrainer.records import HistogramRecord, Records, Scalar, Text
from tbtrainer.redaction import redacted
from tbtrainer.run.saved_run import SavedRun
from tbtrainer.run.summary_writer import RunWriter


@dataclass
class OpenRun:
    """The current run of a session.

    Attributes:
        writer: Its writer.
        run_id: The id in its claim; empty if its directory could not be claimed.
        output_dir: The training's `output_dir` when the run was opened, absolute.
        cards: Digests of the texts that are written only if they have changed, by tag.
    """

    writer: RunWriter
    run_id: str
    output_dir: str
    cards: dict[str, str] = field(default_factory=dict)

    def write(self, records: Records, step: int) -> None:
        """Writes records at `step`. Secrets in texts are replaced by `<hidden>`.

        Raises:
            TypeError: One of the values is not a record.
        """
        for record in records:
            if isinstance(record, Text):
                self._write_text(record, step)
            elif isinstance(record, HistogramRecord):
                fields = record.histogram.raw_fields()
                self.writer.add_histogram_raw(record.tag, **fields, global_step=step)
            elif isinstance(record, Scalar):
                self.writer.add_scalar(record.tag, record.value, step)
            else:
                # Not the value itself, which may contain a secret.
                raise TypeError(
                    f"a {type(record).__name__} is not a record; return a Scalar, a Text or a "
                    "HistogramRecord of tbtrainer.records."
                )

    def mark(self, checkpoint: str, step: int) -> None:
        """Writes the marker of a checkpoint."""
        directory = str(self.writer.log_dir)
        SavedRun.of(directory, self.run_id, checkpoint, step, self.cards).write(checkpoint)

    def _write_text(self, record: Text, step: int) -> None:
        text = str(redacted(record.text, record.tag))
        if record.once:
            digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
            if self.cards.get(record.tag) == digest:
                return
            self.cards[record.tag] = digest
        self.writer.add_text(record.tag, text, step)
