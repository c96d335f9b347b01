"""Copies of a writer: in another process they write nothing, in the same one they hide nothing."""

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, Dataset

from tbtrainer.run import Counters, RunWriter
from tests.events import event_files, scalars
from tests.offering import offer


class WritesInWorkers(Dataset):
    """A dataset that holds a trainer's writer, and writes with it whenever a row is loaded."""

    def __init__(self, writer: RunWriter) -> None:
        self.writer = writer

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        self.writer.add_scalar("value", 1000 + index, 1000 + index)
        self.writer.add_scalars("several", {"a": 1.0}, index)
        self.writer.add_hparams({"rate": 0.1}, {"accuracy": 0.9})
        self.writer.flush()
        self.writer.close()
        return torch.tensor([index, os.getpid()])


def shown(directory: Path) -> list[int]:
    events = EventAccumulator(str(directory)).Reload().Scalars("value")
    return [event.step for event in events]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_data_loader_worker_writes_nothing(method: str, tmp_path: Path) -> None:
    writer = RunWriter(str(tmp_path))
    offer(writer, range(10))
    loader = DataLoader(
        WritesInWorkers(writer), batch_size=2, num_workers=2, multiprocessing_context=method
    )
    rows = torch.cat(list(loader))
    assert os.getpid() not in rows[:, 1].tolist()
    offer(writer, range(10, 20))
    writer.close()
    (file,) = event_files(tmp_path)
    assert [step for _, step, _ in scalars(file)] == list(range(20))


def test_a_copy_of_a_copy_in_another_process_writes_nothing(tmp_path: Path) -> None:
    writer = RunWriter(str(tmp_path))
    offer(writer, range(5))
    child = os.fork()
    if child == 0:
        again = pickle.loads(pickle.dumps(writer))
        again.add_scalar("value", 99, 99)
        again.close()
        os._exit(0)
    os.waitpid(child, 0)
    writer.close()
    assert shown(tmp_path) == list(range(5))
    assert len(event_files(tmp_path)) == 1


def test_a_forked_child_writes_nothing(tmp_path: Path) -> None:
    writer = RunWriter(str(tmp_path))
    offer(writer, range(5))
    child = os.fork()
    if child == 0:
        writer.add_scalar("value", 99, 99)
        writer.flush()
        writer.close()
        os._exit(0)
    os.waitpid(child, 0)
    offer(writer, range(5, 10))
    writer.close()
    assert shown(tmp_path) == list(range(10))


@pytest.mark.parametrize("copied", [lambda w: pickle.loads(pickle.dumps(w)), copy.deepcopy])
def test_a_copy_in_the_same_process_hides_nothing(
    copied: Callable[[RunWriter], RunWriter], tmp_path: Path
) -> None:
    writer = RunWriter(str(tmp_path))
    offer(writer, range(5))
    other = copied(writer)
    assert other.counters == Counters(0, 0, 0)
    # The original continues before the copy's file is begun.
    offer(writer, range(5, 10))
    writer.close()
    offer(other, range(10, 15))
    other.close()
    assert len(event_files(tmp_path)) == 2
    assert shown(tmp_path) == list(range(15))
