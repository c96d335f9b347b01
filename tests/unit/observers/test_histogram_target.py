"""A target of a user's own is counted as the built-in ones are, and refuses bad input."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbtrainer import HistogramTarget, TensorBoardArguments
from tbtrainer.observers import histogram_target as module
from tbtrainer.observers import watched_tensors
from tbtrainer.observers.schedule import SnapshotSchedule
from tbtrainer.records import Deferred, HistogramRecord
from tbtrainer.sharding import parameter_table
from tests.counted_reduction import CountedReduction
from tests.threaded_ranks import ThreadedRanks

CPU = torch.device("cpu")


def training(is_zero: bool = True, **changes: Any) -> Any:
    return SimpleNamespace(
        arguments=TensorBoardArguments(**changes),
        parameters=parameter_table(nn.Linear(3, 2), is_world_process_zero=is_zero),
        schedule=SnapshotSchedule(every=2, last=10),
        device=CPU,
        is_world_process_zero=is_zero,
        snapshot_readers=[],
    )


def histograms(deferred: Sequence[Deferred]) -> dict[str, Any]:
    """The histograms of the only deferred record, by tag."""
    (record,) = deferred
    found = list(record.make())
    assert all(isinstance(made, HistogramRecord) for made in found)
    return {made.tag: made.histogram for made in found}  # type: ignore[union-attr]


# ---- What is counted ----


def test_tensors_of_one_name_are_counted_together() -> None:
    target = HistogramTarget.of(training(), "heads", ["a", "b", "a"], "different")
    given = [torch.tensor([1.0, -2.0]), torch.ones(3, 4), torch.tensor(5.0)]
    found = histograms(target.records(2, lambda: given))
    assert found["heads/a"].sum == 4.0
    assert (found["heads/a"].minimum, found["heads/a"].maximum) == (-2.0, 5.0)
    assert (found["heads/b"].count, found["heads/b"].sum) == (12, 12.0)


def test_a_tensor_that_a_rank_lacks_is_left_out() -> None:
    target = HistogramTarget.of(training(), "heads", ["a", "b"], "same")
    assert set(histograms(target.records(4, lambda: [None, torch.ones(2)]))) == {"heads/b"}


def test_tensors_like_parameters_have_their_names() -> None:
    chosen = training(histogram_include=["weight"])
    target = HistogramTarget.like_parameters(chosen, "average")
    assert target.names == ("weight",)
    found = histograms(target.records(2, lambda: [torch.full((2, 3), 7.0)]))
    assert found["average/weight"].count == 6


def test_nothing_is_computed_at_other_steps() -> None:
    target = HistogramTarget.of(training(), "heads", ["a"], "different")
    assert target.records(3, lambda: pytest.fail("not due")) == []


def test_other_ranks_do_not_measure_what_is_the_same() -> None:
    target = HistogramTarget.of(training(is_zero=False), "heads", ["a"], "same")
    assert target.records(2, lambda: pytest.fail("not this rank's")) == []


def test_a_graph_is_not_kept() -> None:
    target = HistogramTarget.of(training(), "heads", ["a"], "different")
    weight = torch.ones(2, requires_grad=True)
    assert histograms(target.records(2, lambda: [weight * 3]))["heads/a"].sum == 6.0


# ---- Errors ----


def fails() -> list[Tensor | None]:
    raise RuntimeError("the hook did not run")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (fails, "the hook did not run"),
        (lambda: [torch.ones(2)] * 3, "'heads' has 1 names, but 3 tensors were given"),
        (lambda: [torch.ones(2, dtype=torch.complex64)], "heads/a cannot be shown: its elements"),
    ],
)
def test_tensors_that_fail_reach_both_reductions(
    tensors: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "world_size", lambda: 2)
    monkeypatch.setattr(watched_tensors, "AllRanks", CountedReduction)
    target = HistogramTarget.of(training(), "heads", ["a"], "different")
    with pytest.raises(Exception, match=message):
        target.records(2, tensors)
    assert isinstance(target._tensors.reduction, CountedReduction)
    assert target._tensors.reduction.reached == [("extremes", False), ("counts", False)]


def test_names_that_differ_between_ranks_are_refused_on_all() -> None:
    ranks, trainings = ThreadedRanks(2), [training(True), training(False)]

    def of(rank: int) -> None:
        target = HistogramTarget.of(trainings[rank], "heads", ["a", f"b{rank}"], "different")
        for step in (2, 4):
            with pytest.raises(ValueError, match="its names differ between ranks"):
                target.records(step, lambda: [torch.ones(2)] * 2)

    ranks.run(of)
    assert len(ranks.collectives) == 1


def test_equal_names_are_compared_at_the_first_snapshot_alone() -> None:
    ranks, trainings = ThreadedRanks(2), [training(True), training(False)]
    targets = ranks.run(
        lambda rank: HistogramTarget.of(trainings[rank], "heads", ["a"], "different")
    )
    ranks.run(lambda rank: targets[rank].records(2, lambda: [torch.ones(2)]))
    first = len(ranks.collectives)
    shown, others = ranks.run(lambda rank: targets[rank].records(4, lambda: [torch.ones(2)]))
    assert len(ranks.collectives) == 2 * first - 1
    assert histograms(shown)["heads/a"].count == 4
    assert others == []


@pytest.mark.parametrize(
    ("target", "names", "on_ranks", "message"),
    [
        ("a/b", ["x"], "same", "target='a/b' is not a plain name"),
        ("gradients", ["x"], "same", "target='gradients' is a built-in target"),
        ("heads", [], "same", r"names=\[\] has no name of a tensor"),
        ("heads", "x", "same", "names='x' has no name"),
        ("heads", ["x"], "all", 'on_ranks=\'all\' is not allowed; use "same" or "different"'),
    ],
)
def test_bad_input_is_refused(target: Any, names: Any, on_ranks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HistogramTarget.of(training(), target, names, on_ranks)
