"""`SummaryWriter.add_hparams` beside the row that tbtrainer writes itself.

TensorBoard takes the columns of one run for all runs that it shows, and which one is not specified.
So a run and what its user adds to it have the same columns: those of both.
"""

import os
import time
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Experiment
from torch.utils.tensorboard.summary import hparams, scalar

from tbtrainer.event_file.names import PART_OF_RUN, first_file_name
from tbtrainer.event_file.records import framed
from tbtrainer.event_file.storage import storage_of
from tbtrainer.event_file.writer import EventFileWriter
from tbtrainer.isolation import Isolation
from tbtrainer.run.file_writer import RunFileWriter
from tbtrainer.run.hparams import experiment_summary
from tbtrainer.run.time_limit import while_opening

# TensorBoard shows so many columns of hyper-parameters at first.
_SHOWN_AT_FIRST = 5


class AddedHParams:
    """The columns of one run, and of the directories that `add_hparams` makes below it.

    Args:
        directory: The run directory.
        file_mode: Permissions of local event files, before the process's umask.
    """

    def __init__(self, directory: str, file_mode: int) -> None:
        self._directory = directory
        self._file_mode = file_mode
        self._own: Experiment | None = None
        self._added: list[Experiment] = []
        # The columns that loaders find in each directory, and when its first event was written.
        self._found: dict[str, tuple[Experiment, float]] = {}

    def own_columns(self, own: Experiment, moment: float) -> Experiment:
        """Returns the columns to be written for the run itself.

        Args:
            own: What tbtrainer shows.
            moment: A time in seconds at which the run had begun.
        """
        self._own = own
        return self._shared(self._directory, moment)

    def write(
        self,
        hparam_dict: dict[str, Any],
        metric_dict: dict[str, Any],
        hparam_domain_discrete: dict[str, Any] | None,
        name: str,
        global_step: int | None,
        options: dict[str, Any],
        isolation: Isolation,
    ) -> None:
        """Writes what `add_hparams` is given, in a directory below the run's, as torch does.

        Args:
            hparam_dict: As in `SummaryWriter.add_hparams`.
            metric_dict: As there.
            hparam_domain_discrete: As there.
            name: Of the directory.
            global_step: As there.
            options: Of the `EventFileWriter`.
            isolation: Reports errors of tools that follow event files.
        """
        columns, *others = hparams(hparam_dict, metric_dict, hparam_domain_discrete)
        content = columns.value[0].metadata.plugin_data.content
        self._added.append(metadata.parse_experiment_plugin_data(content))
        directory = os.path.join(self._directory, name)
        events = EventFileWriter(directory, suffix=PART_OF_RUN, **options)
        file_writer = RunFileWriter(events, PART_OF_RUN, isolation)
        shared = self._shared(directory, time.time())
        scalars = [scalar(tag, value) for tag, value in metric_dict.items()]
        for summary in (experiment_summary(shared), *others, *scalars):
            file_writer.add_summary(summary, global_step)
        events.close()
        self.refresh()

    def refresh(self) -> None:
        """Writes the columns again where loaders find other ones than the last.

        They go to a small event file that loaders read first, because they take the first columns
        of a directory.

        Raises:
            TimeoutError: The file system does not answer.
            OSError: The file cannot be written, or another error of an object store.
        """
        shared = self._merged()
        for directory, (found, moment) in list(self._found.items()):
            if found != shared:
                while_opening(self._write_first, directory, shared, moment)
                self._found[directory] = shared, moment

    def _shared(self, directory: str, moment: float) -> Experiment:
        shared = self._merged()
        self._found[directory] = shared, moment
        return shared

    def _merged(self) -> Experiment:
        """Returns the columns of the user, in front of those of tbtrainer."""
        merged = Experiment()
        names: set[str] = set()
        metrics: set[tuple[str, str]] = set()
        prominent = 0
        for number, columns in enumerate([*self._added, *filter(None, [self._own])]):
            is_own = number == len(self._added)
            for hparam in columns.hparam_infos:
                if hparam.name not in names:
                    names.add(hparam.name)
                    shown = merged.hparam_infos.add()
                    shown.CopyFrom(hparam)
                    shown.differs = prominent < _SHOWN_AT_FIRST and (hparam.differs or not is_own)
                    prominent += shown.differs
            for metric in columns.metric_infos:
                if (key := (metric.name.group, metric.name.tag)) not in metrics:
                    metrics.add(key)
                    merged.metric_infos.add().CopyFrom(metric)
        return merged

    def _write_first(self, directory: str, columns: Experiment, moment: float) -> None:
        end = "" if directory == self._directory else PART_OF_RUN
        name = first_file_name(f"hparams{end}")
        summary: Summary = experiment_summary(columns)
        events = [
            Event(wall_time=moment, file_version="brain.Event:2"),
            Event(wall_time=moment, summary=summary),
        ]
        data = b"".join(framed(event.SerializeToString()) for event in events)
        storage_of(directory).replace(name, data, self._file_mode)
