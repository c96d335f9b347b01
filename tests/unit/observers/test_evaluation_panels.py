"""Panels during evaluations: which batches reach them, when they are left out, what ranks agree."""

import logging
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tbtrainer.observers import evaluation_panels
from tbtrainer.panels import Panel
from tbtrainer.records import Scalar
from tests.accelerator import Accelerator
from tests.limits import HANG_SECONDS
from tests.panels import Acting, Counted, Finishing, failing
from tests.rank_evaluations import Evaluations

ONE = [0, 1, 1]


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Returns what tbtrainer has logged so far."""
    caplog.set_level(logging.WARNING, logger="tbtrainer")
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("tbtrainer")]


def labels_of(panel: Counted) -> list[list[int]]:
    """The labels that were drawn, by evaluation."""
    return [kept.examples["label"].tolist() for kept in panel.kept]


def test_an_evaluation_is_drawn_with_all_its_batches() -> None:
    panel = Counted()
    assert Evaluations(panel).of([0, 1], [1]) == [Scalar("eval/ones", 2.0)]
    assert labels_of(panel) == [[0, 1, 1]] and panel.kept[0].seen == 3


def test_panels_are_drawn_in_the_order_they_were_chosen() -> None:
    first, second = Counted("b"), Counted("a")
    drawn: list[str] = []
    for panel in (first, second):
        name = panel.name
        panel.draw = lambda *a, name=name: drawn.append(name) or []  # type: ignore[misc,method-assign]
    Evaluations(first, second).of(ONE)
    assert drawn == ["b", "a"]


def test_a_draw_knows_step_dataset_and_metrics() -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    evaluations.begin("news")
    evaluations.predict(ONE)
    evaluations.end({"eval_loss": 0.5})
    (found,) = panel.evaluations
    assert (found.step, found.dataset, dict(found.metrics)) == (3, "news", {"eval_loss": 0.5})


def test_examples_that_only_fill_up_are_not_shown() -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    evaluations.begin()
    evaluations.predict([1, 0, 1], own=2)
    evaluations.predict([1, 1, 1], own=0)
    evaluations.end()
    assert labels_of(panel) == [[1, 0]]
    assert (panel.kept[0].seen, panel.batches) == (2, [2])


def test_an_evaluation_without_examples_is_not_drawn() -> None:
    panel = Counted()
    assert Evaluations(panel).of() == []
    assert panel.kept == []


def test_a_second_evaluation_begins_anew() -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    evaluations.of([0, 1])
    evaluations.of([1])
    assert labels_of(panel) == [[0, 1], [1]]


def test_an_evaluation_after_a_broken_one_begins_anew() -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    evaluations.begin()
    evaluations.predict([0, 1])
    evaluations.leave()
    evaluations.of([1])
    assert labels_of(panel) == [[1]]


def test_an_evaluation_inside_another_is_shown_alone() -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    evaluations.begin()
    evaluations.predict([0, 1])
    evaluations.of([1, 1])
    evaluations.predict([0])
    evaluations.end()
    assert labels_of(panel) == [[1, 1], [0, 1, 0]]


def test_a_broken_evaluation_inside_another_is_left_out() -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    evaluations.begin()
    evaluations.begin()
    evaluations.predict([1, 1])
    evaluations.leave()
    evaluations.predict([0])
    evaluations.end()
    assert labels_of(panel) == [[0]]


@pytest.mark.parametrize("is_inside", [True, False])
def test_the_batches_of_a_prediction_are_not_shown(is_inside: bool) -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    if is_inside:
        evaluations.begin()
        evaluations.predict([0])
    evaluations.enter()
    evaluations.predict([1, 1])
    evaluations.leave()
    if is_inside:
        evaluations.end()
    assert labels_of(panel) == ([[0]] if is_inside else [])


def test_without_panels_nothing_is_kept() -> None:
    assert Evaluations().of(ONE) == []


# ---- Faults ----


@pytest.mark.parametrize("method", ["applies", "batch", "draw"])
def test_a_failing_panel_leaves_the_others(method: str, warnings: Callable[[], list[str]]) -> None:
    other = Counted()
    evaluations = Evaluations(Acting(method, failing), other)
    for _ in range(2):
        assert evaluations.of([0, 1], [1]) == [Scalar("eval/ones", 2.0)]
    (message,) = warnings()
    assert "evaluation panel Acting" in message and "no such luck" in message


def test_a_panel_that_fails_to_finish_leaves_the_others(
    warnings: Callable[[], list[str]],
) -> None:
    assert len(Evaluations(Finishing(failing), Counted()).of(ONE)) == 1
    assert len(warnings()) == 1


def test_a_failing_panel_is_asked_again_next_time() -> None:
    panel = Acting("batch", failing)
    evaluations = Evaluations(panel)
    evaluations.of(ONE)
    del vars(panel)["batch"]
    evaluations.of(ONE)
    assert labels_of(panel) == [ONE]


def test_errors_can_be_raised() -> None:
    with pytest.raises(RuntimeError, match="no such luck"):
        Evaluations(Acting("batch", failing), action="raise").of(ONE)


def test_a_batch_that_cannot_be_read_leaves_panels_out(
    warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    evaluations.begin()
    evaluations.predict([0, 1])
    with monkeypatch.context() as patched:
        patched.setattr("tbtrainer.observers.open_evaluation.panel_batch", failing)
        evaluations.predict([1])
    evaluations.predict([1])
    assert evaluations.end() == [] and panel.kept == []
    assert "no such luck" in warnings()[0]


def test_a_panel_that_is_named_says_why_it_is_missing(
    warnings: Callable[[], list[str]],
) -> None:
    panel = Acting("applies", lambda evaluation: False)
    evaluations = Evaluations(panel, named=("Acting", "auto"))
    for _ in range(2):
        evaluations.of(ONE)
    (message,) = warnings()
    assert "'Acting', which does not apply" in message


def test_a_panel_of_auto_is_missing_without_a_word(warnings: Callable[[], list[str]]) -> None:
    evaluations = Evaluations(Acting("applies", lambda evaluation: False), named=("auto",))
    evaluations.of(ONE)
    assert warnings() == []


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Acting]:
    """A panel whose drawing does not end before the test does."""
    released = threading.Event()
    hung = Acting("draw", lambda *arguments: [released.wait(HANG_SECONDS)][:0])
    within = evaluation_panels.within

    def limited(seconds: float, draw: Any, panel: Panel, *arguments: Any) -> Any:
        # Others are drawn without a limit that a slow machine could reach.
        return within(0.01 if panel is hung else HANG_SECONDS, draw, panel, *arguments)

    monkeypatch.setattr(evaluation_panels, "within", limited)
    yield hung
    released.set()


def test_a_hung_panel_leaves_the_others_drawn(
    hanging: Acting, warnings: Callable[[], list[str]]
) -> None:
    assert Evaluations(hanging, Counted()).of(ONE) == [Scalar("eval/ones", 2.0)]
    assert "evaluation panel Acting" in warnings()[0] and "not drawn again" in warnings()[0]


def test_a_hung_panel_is_left_out_afterwards(hanging: Acting) -> None:
    evaluations = Evaluations(hanging)
    evaluations.of(ONE)
    assert hanging.batches == [3]
    evaluations.of(ONE)
    assert hanging.batches == [3]


def test_a_panel_without_a_word_of_why_is_hung_once(
    hanging: Acting, warnings: Callable[[], list[str]]
) -> None:
    evaluations = Evaluations(hanging)
    for _ in range(3):
        evaluations.of(ONE)
    assert len(warnings()) == 1


# ---- What an evaluation must not notice ----


def draw_random_numbers(shown: Any) -> None:
    torch.rand(3), np.random.rand(3), random.random()


def test_finish_leaves_the_random_states_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    Evaluations(Finishing(draw_random_numbers)).of(ONE)
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0]) and np.array_equal(before[1], after[1])
    assert before[2] == after[2]


def test_the_first_batch_takes_no_memory_after_applies() -> None:
    asked: list[Tensor] = []
    panel = Acting("applies", lambda shown: asked.append(shown.first_batch.labels) or True)
    panel.batch = lambda batch, shown: asked.append(shown.first_batch.labels)  # type: ignore[method-assign]
    panel.draw = lambda kept, shown: asked.append(shown.first_batch.labels) or []  # type: ignore[method-assign]
    Evaluations(panel, action="raise").of(ONE, [1])
    assert [labels.device.type for labels in asked] == ["cpu", "meta", "meta", "meta"]
    assert [labels.shape for labels in asked] == [(3,)] * 4


def test_a_batch_is_not_waited_for() -> None:
    panel = Counted()
    evaluations = Evaluations(panel, action="raise")
    with Accelerator("lazy") as accelerator:
        evaluations.begin()
        accelerator.may_be_waited_for = False
        for labels in ([0, 1, 1], [1, 0, 0], [1, 0, 1]):
            evaluations.predict(accelerator.put(torch.tensor(labels)), own=2)
        accelerator.may_be_waited_for = True
        evaluations.end()
    assert labels_of(panel) == [[0, 1, 1, 0, 1, 0]]
    assert panel.kept[0].totals["labels"].tolist() == [3, 3]


def test_panels_after_slow_ones_say_that_they_are_missing(
    monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(evaluation_panels, "MOST_DRAW_SECONDS", -1.0)
    evaluations = Evaluations(Counted())
    assert evaluations.of(ONE) == []
    assert "those before it took too long" in warnings()[0]
    monkeypatch.undo()
    assert evaluations.of(ONE) == [Scalar("eval/ones", 2.0)]
