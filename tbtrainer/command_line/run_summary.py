"""Everything that `show` and `compare` say about a run, found in three passes over its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tbtrainer.command_line.curves import Curve, Curves
from tbtrainer.command_line.run_facts import CARDS, RunFacts, card_of, facts_of, latest_cards
from tbtrainer.command_line.run_health import RunHealth, health_of
from tbtrainer.command_line.run_status import RunStatus, presence_of_writer, status_of
from tbtrainer.reading import Run, ScannedFile, Session


@dataclass(frozen=True)
class RunSummary:
    """What is known of a run.

    Attributes:
        path: Of the run, as the user named it.
        status: Whether it is finished, failed or running.
        sessions: In the order read.
        files: The event files, in the order read.
        kinds: How many tags of each kind it has.
        curves: Its scalars by tag, in the order in which they first appear.
        facts: What it says about itself.
        health: What is not finite in it.
    """

    path: str
    status: RunStatus
    sessions: Sequence[Session]
    files: Sequence[ScannedFile]
    kinds: Mapping[str, int]
    curves: Mapping[str, Curve]
    facts: RunFacts
    health: RunHealth

    @property
    def last_step(self) -> int | None:
        """The largest step of the run; `None` if it has no values."""
        steps = [session.last_step for session in self.sessions if session.last_step is not None]
        return max(steps, default=None)


def summary_of(run: Run, path: str) -> RunSummary:
    """Reads a run. The memory depends on the number of its tags, not on that of its records.

    Args:
        run: The run.
        path: As the user named it.
    """
    curves = Curves()
    for chunk in run.scalar_chunks():
        curves.add(chunk.names, chunk.tag, chunk.step, chunk.wall_time, chunk.value)
    tags = run.tags()
    kinds: dict[str, int] = {}
    for info in tags.values():
        kinds[info.kind] = kinds.get(info.kind, 0) + 1
    cards = latest_cards(run.iter_records([tag for tag in tags if card_of(tag) in CARDS]))
    sessions, hparams = run.sessions, run.hparams
    return RunSummary(
        path=path,
        status=status_of(hparams, sessions, presence_of_writer(sessions, run.files)),
        sessions=sessions,
        files=run.files,
        kinds=kinds,
        curves=curves.by_tag,
        facts=facts_of(cards, hparams.values),
        health=health_of(curves.by_tag, run.health),
    )
