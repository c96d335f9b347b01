"""The loss scale of a training, with and without DeepSpeed."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tbtrainer.observers.loss_scale import loss_scale_of


def accelerator_with(scaler: Any) -> Any:
    return SimpleNamespace(scaler=scaler)


def test_a_training_without_a_scaler_has_no_loss_scale() -> None:
    assert loss_scale_of(accelerator_with(None), nn.Linear(1, 1)) is None


def test_a_disabled_scaler_has_no_loss_scale() -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    assert loss_scale_of(accelerator_with(scaler), nn.Linear(1, 1)) is None


def test_a_scaler_without_a_step_has_its_initial_scale() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scale = loss_scale_of(accelerator_with(scaler), nn.Linear(1, 1))
    assert scale is not None
    assert scale.item() == 1024.0


def test_the_scale_of_a_scaler_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones((), requires_grad=True))
    monkeypatch.setattr(scaler, "get_scale", lambda: pytest.fail("it waits for the device"))
    scale = loss_scale_of(accelerator_with(scaler), nn.Linear(1, 1))
    assert scale is not None
    assert scale.item() == 1024.0


def test_deepspeeds_engine_gives_the_loss_scale() -> None:
    engine: Any = SimpleNamespace(optimizer=SimpleNamespace(loss_scale=65536.0))
    scale = loss_scale_of(accelerator_with(None), engine)
    assert scale is not None
    assert scale.item() == 65536.0
