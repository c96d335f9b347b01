"""Which values of a run are shown after a resume, and to which session they belong."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import SummaryWriter

from tbtrainer.event_file.names import first_file_name
from tbtrainer.event_file.records import file_header, framed
from tbtrainer.reading import Run
from tbtrainer.run import RunWriter, rewind
from tests.event_bytes import scalar
from tests.events import date_back

Value = tuple[str, int, int]


def shown(directory: Path, include_rewound: bool = False) -> list[Value]:
    """Tag, step and session of every scalar."""
    run = Run(directory, include_rewound=include_rewound)
    return [(record.tag, record.step, record.session) for record in run.iter_records()]


def steps(directory: Path, tag: str = "loss") -> list[int]:
    return [step for name, step, _ in shown(directory) if name == tag]


def file(directory: Path, name: str, *records: bytes, start: int | None = None) -> None:
    """Writes an event file. The number at the begin of the name orders the files."""
    data = file_header(start) + b"".join(records)
    (directory / f"events.out.tfevents.17000000{name}").write_bytes(data)


def scalars(steps: range, tag: str = "loss", wall_time: float = 0.0) -> bytes:
    return b"".join(scalar(tag, step, step, wall_time + step) for step in steps)


# ---- START events ----


def test_a_start_replaces_its_step_and_later_ones(tmp_path: Path) -> None:
    file(tmp_path, "01.host.1.0", scalars(range(10)), start=0)
    file(tmp_path, "02.host.2.0", scalars(range(6, 8)), start=6)
    expected = [("loss", step, 0) for step in range(6)] + [("loss", 6, 1), ("loss", 7, 1)]
    assert shown(tmp_path) == expected


def test_a_start_replaces_tags_that_are_not_written_again(tmp_path: Path) -> None:
    file(tmp_path, "01.host.1.0", scalars(range(10), "old"), start=0)
    file(tmp_path, "02.host.2.0", scalars(range(6, 8)), start=6)
    assert steps(tmp_path, "old") == list(range(6))


def test_purge_step_holds_without_an_earlier_start(tmp_path: Path) -> None:
    for purge_step in (None, 3):
        date_back(tmp_path)
        with SummaryWriter(str(tmp_path), purge_step=purge_step) as writer:
            for step in range(purge_step or 0, 6):
                writer.add_scalar("loss", step, step)
    expected = [("loss", step, 0) for step in range(3)] + [("loss", step, 1) for step in (3, 4, 5)]
    assert shown(tmp_path) == expected


def test_purge_step_replaces_tags_that_are_not_written_again(tmp_path: Path) -> None:
    for purge_step, tag in ((None, "old"), (3, "new")):
        date_back(tmp_path)
        with SummaryWriter(str(tmp_path), purge_step=purge_step) as writer:
            for step in range(6):
                writer.add_scalar(tag, step, step)
    assert (steps(tmp_path, "old"), steps(tmp_path, "new")) == ([0, 1, 2], list(range(6)))


def test_a_first_start_of_step_zero_replaces_nothing(tmp_path: Path) -> None:
    file(tmp_path, "01.host.1.0", scalars(range(3), "other"))
    file(tmp_path, "02.host.2.0", scalars(range(3)), start=0)
    assert (steps(tmp_path, "other"), steps(tmp_path)) == ([0, 1, 2], [0, 1, 2])


def test_a_start_within_a_file_begins_a_session(tmp_path: Path) -> None:
    log = SessionLog(status=SessionLog.START)
    start = framed(Event(step=2, session_log=log).SerializeToString())
    file(tmp_path, "01.host.1.0", scalars(range(4)), start, scalars(range(2, 5)), start=0)
    sessions = [("loss", 0, 0), ("loss", 1, 0), ("loss", 2, 1), ("loss", 3, 1), ("loss", 4, 1)]
    assert shown(tmp_path) == sessions


written_sessions = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=6)), min_size=1, max_size=4
)


@given(written_sessions)
def test_values_after_starts_are_those_of_tensorboard(
    tmp_path_factory: pytest.TempPathFactory, sessions: list[tuple[int, list[int]]]
) -> None:
    directory = tmp_path_factory.mktemp("run")
    for number, (start, written) in enumerate(sessions):
        values = [scalar("loss", step, number) for step in written]
        # TensorBoard ignores the first START.
        file(directory, f"{number:02d}.host.1.0", *values, start=start if number else 0)
    tensorboard = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    tensorboard.Reload()
    has_values = "loss" in tensorboard.Tags()["scalars"]
    expected = [(e.step, e.value) for e in tensorboard.Scalars("loss")] if has_values else []
    found = [(record.step, record.value) for record in Run(directory).iter_records()]
    assert found == expected


# ---- Files without START events ----


def test_a_session_without_start_replaces_what_it_writes_again(tmp_path: Path) -> None:
    file(tmp_path, "01.host.1.0", scalars(range(10)), scalars(range(10), "early"))
    file(tmp_path, "02.host.2.0", scalars(range(6, 12), wall_time=100))
    assert steps(tmp_path) == list(range(12))
    assert steps(tmp_path, "early") == list(range(10))


def test_several_sessions_without_start_are_one_curve(tmp_path: Path) -> None:
    for number, begin in enumerate([0, 5, 3, 7]):
        values = scalars(range(begin, begin + 6), wall_time=100 * number)
        file(tmp_path, f"{number:02d}.host.{number}.0", values)
    assert steps(tmp_path) == list(range(13))


def test_writers_at_the_same_time_replace_nothing(tmp_path: Path) -> None:
    for rank in range(3):
        values = [scalar("loss", step, rank, wall_time=step + rank / 10) for step in range(5)]
        file(tmp_path, f"01.host.{rank}.0", *values)
    # The first value of a rank may be older than the first one of another.
    assert steps(tmp_path).count(4) == 3 and steps(tmp_path).count(1) == 3


def test_a_stock_writer_that_begins_again_is_shown_once(tmp_path: Path) -> None:
    for number in range(2):
        date_back(tmp_path)
        with SummaryWriter(str(tmp_path)) as writer:
            for step in range(4):
                writer.add_scalar("loss", number, step)
    assert shown(tmp_path) == [("loss", step, 1) for step in range(4)]
    assert len(shown(tmp_path, include_rewound=True)) == 8


def test_the_first_file_of_a_session_says_what_it_replaces(tmp_path: Path) -> None:
    file(tmp_path, "01.host.1.0", scalars(range(10)))
    file(tmp_path, "02.host.2-0", scalars(range(5, 8), wall_time=100))
    file(tmp_path, "03.host.2-1", scalars(range(8, 12), wall_time=200))
    assert shown(tmp_path) == [("loss", step, int(step >= 5)) for step in range(12)]


# ---- tbtrainer's own files ----


def test_later_files_of_a_writer_belong_to_its_session(tmp_path: Path) -> None:
    writer = RunWriter(str(tmp_path))
    for step in range(3):
        writer.add_scalar("loss", step, step)
        writer.close()
        # A newer file makes the writer begin another one.
        newest = max(path.name for path in tmp_path.iterdir())
        (tmp_path / f"{newest}x").write_bytes(file_header(None))
    writer.close()
    assert len([path for path in tmp_path.iterdir() if not path.name.endswith("x")]) == 3
    assert shown(tmp_path) == [("loss", 0, 0), ("loss", 1, 0), ("loss", 2, 0)]
    assert len(Run(tmp_path).sessions) == 1


def rewound(directory: Path) -> None:
    """A run that wrote steps 0 to 9, was rewound to step 5, and wrote steps 6 to 7 again."""
    for purge_step, written in ((None, range(10)), (6, range(6, 8))):
        if purge_step is not None:
            rewind(str(directory), purge_step - 1)
        writer = RunWriter(str(directory), purge_step)
        for step in written:
            writer.add_scalar("loss", step, step)
        writer.close()


def test_what_a_rewind_took_out_is_left_out(tmp_path: Path) -> None:
    rewound(tmp_path)
    expected = [("loss", step, 0) for step in range(6)] + [("loss", 6, 1), ("loss", 7, 1)]
    assert shown(tmp_path) == expected


def test_what_a_rewind_took_out_can_be_shown(tmp_path: Path) -> None:
    rewound(tmp_path)
    expected = [("loss", step, 0) for step in range(10)] + [("loss", 6, 1), ("loss", 7, 1)]
    assert shown(tmp_path, include_rewound=True) == expected
    names = [f.removed_from for f in Run(tmp_path, include_rewound=True).files]
    assert [name is None for name in names] == [True, False, True]


def test_rewound_values_survive_the_loss_of_their_file(tmp_path: Path) -> None:
    rewound(tmp_path)
    min(tmp_path.glob("events.out.tfevents*")).unlink()
    assert [step for _, step, _ in shown(tmp_path, include_rewound=True)] == [6, 7, 8, 9, 6, 7]


def test_a_file_that_is_read_first_begins_no_session(tmp_path: Path) -> None:
    rewound(tmp_path)
    (tmp_path / first_file_name("hparams")).write_bytes(file_header(None) + scalar("early", 0, 1))
    assert {session for _, _, session in shown(tmp_path)} == {0, 1}
    first, second = Run(tmp_path).sessions
    assert (first.start_step, len(first.files), second.start_step) == (0, 2, 6)


# ---- What is said of a session ----


def test_a_session_says_what_it_wrote(tmp_path: Path) -> None:
    file(tmp_path, "01.host.1.0", scalars(range(10), wall_time=50), start=0)
    file(tmp_path, "02.host.2.0", scalars(range(6, 8), wall_time=100), start=6)
    first, second = Run(tmp_path).sessions
    assert (first.index, first.start_step, first.first_step, first.last_step) == (0, 0, 0, 9)
    assert (first.values, second.values) == (10, 2)
    assert (second.index, second.start_step, second.first_step, second.last_step) == (1, 6, 6, 7)
    assert second.files == ("events.out.tfevents.1700000002.host.2.0",)


def test_a_session_without_values_has_no_steps(tmp_path: Path) -> None:
    file(tmp_path, "01.host.1.0", start=0)
    (session,) = Run(tmp_path).sessions
    assert (session.values, session.first_step, session.last_step) == (0, None, None)


def test_empty_files_make_no_session(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"events.out.tfevents.170000000{number}.host.1.0").touch()
    assert Run(tmp_path).sessions == []


@pytest.mark.parametrize("include_rewound", [False, True])
def test_session_numbers_are_indices(tmp_path: Path, include_rewound: bool) -> None:
    rewound(tmp_path)
    file(tmp_path, "00.host.1.0")
    run = Run(tmp_path, include_rewound=include_rewound)
    assert [session.index for session in run.sessions] == list(range(len(run.sessions)))
    met = {record.session for record in run.iter_records()}
    assert met == set(range(len(run.sessions)))


def test_steps_of_sessions_never_repeat(tmp_path: Path) -> None:
    for number, begin in enumerate(itertools.accumulate([0, 3, 3, 3])):
        file(tmp_path, f"{number:02d}.host.1.0", scalars(range(begin, begin + 9)), start=begin)
    assert steps(tmp_path) == list(range(18))
