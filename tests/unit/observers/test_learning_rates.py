"""Rates of groups that differ are shown. They are read before the scheduler changes them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tbtrainer.observers.learning_rates import (
    KEPT_STEPS,
    LearningRates,
    distinct_groups,
)


def with_groups(groups: list[dict[str, Any]]) -> Any:
    return SimpleNamespace(optimizer=SimpleNamespace(param_groups=groups), model=None)


def shown(*groups: dict[str, Any]) -> dict[str, float]:
    observer = LearningRates()
    training: Any = with_groups(list(groups))
    observer.run_begins(0, training)
    observer.gradients_ready(1, None)
    return {record.tag: record.value for record in observer.logging_step(1)}


def test_one_rate_is_left_to_stock() -> None:
    decayed, other = {"lr": 0.1, "weight_decay": 0.01}, {"lr": 0.1, "weight_decay": 0.0}
    assert shown(decayed, other) == {}


def test_rates_that_differ_are_shown_by_group() -> None:
    found = shown({"lr": 0.1, "weight_decay": 0.0}, {"lr": 0.2, "weight_decay": 0.0})
    assert found == {"learning_rate/group_0": 0.1, "learning_rate/group_1": 0.2}


def test_decays_are_shown_where_rates_and_decays_differ() -> None:
    found = shown({"lr": 0.1, "weight_decay": 0.5}, {"lr": 0.2, "weight_decay": 0.0})
    assert (found["weight_decay/group_0"], found["weight_decay/group_1"]) == (0.5, 0.0)


def test_a_group_that_is_split_keeps_its_name() -> None:
    head, body = {"lr": 0.2, "betas": (0.9, 0.99)}, {"lr": 0.1, "betas": (0.9, 0.99)}
    assert shown(body, head) == shown(body, dict(body), head, dict(head))


def test_the_name_of_a_group_is_its_own() -> None:
    found = shown({"lr": 0.1, "name": "body"}, {"lr": 0.2, "name": "head"})
    assert set(found) == {"learning_rate/body", "learning_rate/head"}


def test_two_groups_of_one_name_are_kept_apart() -> None:
    groups = [{"lr": 0.1, "name": "same"}, {"lr": 0.2, "name": "same"}]
    assert list(distinct_groups(groups)) == ["same", "group_1"]


def test_rates_are_those_of_the_step_that_was_taken() -> None:
    model = nn.Linear(2, 2)
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.2}]
    optimizer = torch.optim.SGD(groups)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    observer = LearningRates()
    training: Any = SimpleNamespace(optimizer=optimizer, model=None)
    observer.run_begins(0, training)
    observer.gradients_ready(1, None)
    optimizer.step()
    scheduler.step()
    assert [record.value for record in observer.logging_step(1)] == [0.1, 0.2]


def test_a_rate_on_a_device_is_read_at_logging_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = [torch.tensor(0.25), torch.tensor(0.5)]
    observer = LearningRates()
    training = with_groups([{"lr": rate, "name": str(rate)} for rate in rates])
    observer.run_begins(0, training)
    with monkeypatch.context() as patch:
        for name in ("item", "__float__", "tolist", "cpu"):
            patch.setattr(torch.Tensor, name, lambda *_: pytest.fail("the device was waited for"))
        observer.gradients_ready(1, None)
    for rate in rates:
        rate.mul_(0.5)
    assert [record.value for record in observer.logging_step(1)] == [0.25, 0.5]


def test_the_optimizer_is_not_kept_after_the_training() -> None:
    observer = LearningRates()
    observer.run_begins(0, with_groups([{"lr": 0.1}]))
    observer.close()
    assert observer._optimizer is None


def at_steps(
    observer: LearningRates, groups: list[dict[str, Any]], *rates: list[float]
) -> list[Any]:
    """Logs once per list of rates, one rate per group, and returns what is shown each time."""
    observer.run_begins(0, with_groups(groups))
    logged = []
    for step, values in enumerate(rates, 1):
        for group, value in zip(groups, values, strict=True):
            group["lr"] = value
        observer.gradients_ready(step, None)
        logged.append({record.tag: record.value for record in observer.logging_step(step)})
    return logged


def named(*names: str) -> list[dict[str, Any]]:
    return [{"lr": 0.0, "weight_decay": 0.0, "name": name} for name in names]


def test_groups_of_equal_rates_are_one_curve() -> None:
    (shown,) = at_steps(LearningRates(), named("a", "b", "c"), [0.1, 0.2, 0.1])
    assert shown == {"learning_rate/a": 0.1, "learning_rate/b": 0.2}


def test_a_curve_continues_where_rates_become_equal() -> None:
    shown = at_steps(LearningRates(), named("a", "b"), [0.1, 0.2], [0.0, 0.0])
    assert shown[1] == {"learning_rate/a": 0.0, "learning_rate/b": 0.0}


def test_groups_get_curves_when_their_rates_part() -> None:
    shown = at_steps(LearningRates(), named("a", "b"), [0.0, 0.0], [0.1, 0.2])
    assert [len(tags) for tags in shown] == [0, 2]


def test_the_rates_of_a_step_are_known_afterwards() -> None:
    observer = LearningRates()
    at_steps(observer, named("a", "b"), [0.1, 0.1], [0.2, 0.3])
    assert (observer.rates_at(1), observer.rates_at(2)) == ({"a": 0.1}, {"a": 0.2, "b": 0.3})


def test_the_rates_of_one_group_have_its_name() -> None:
    observer = LearningRates()
    at_steps(observer, [{"lr": 0.0}], [5e-5])
    assert observer.rates_at(1) == {"group_0": 5e-5}


def test_the_rates_of_old_steps_are_dropped() -> None:
    observer = LearningRates()
    at_steps(observer, [{"lr": 0.0}], *([0.1] for _ in range(KEPT_STEPS + 1)))
    assert (observer.rates_at(1), observer.rates_at(2)) == ({}, {"group_0": 0.1})


def test_a_group_that_is_added_later_is_shown() -> None:
    observer = LearningRates()
    groups = named("a")
    observer.run_begins(0, with_groups(groups))
    observer.gradients_ready(1, None)
    groups += [{"lr": 0.5, "weight_decay": 0.0, "name": "late"}]
    observer.gradients_ready(2, None)
    assert {record.tag for record in observer.logging_step(2)} == {
        *("learning_rate/a", "learning_rate/late")
    }


def test_groups_replaced_by_a_loaded_state_are_read() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    observer = LearningRates()
    training: Any = SimpleNamespace(optimizer=optimizer, model=None)
    observer.run_begins(0, training)
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 0.25
    optimizer.load_state_dict(state)
    observer.gradients_ready(1, None)
    assert observer.rates_at(1) == {"group_0": 0.25}


def test_the_engine_has_the_groups_of_a_stand_in() -> None:
    observer = LearningRates()
    engine = SimpleNamespace(optimizer=SimpleNamespace(param_groups=[{"lr": 0.5}]))
    training: Any = SimpleNamespace(optimizer=SimpleNamespace(), model=engine)
    observer.run_begins(0, training)
    observer.gradients_ready(1, None)
    assert observer.rates_at(1) == {"group_0": 0.5}
