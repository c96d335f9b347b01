"""The second forward pass of a refused step: what it names, and what it leaves as it was."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.guarded_loop import NAN, Loop


def test_the_module_that_overflows_is_named() -> None:
    loop = Loop("stop")
    loop.begin(1e20)
    (line,) = loop.lines
    assert (line["checked_forward"], line["first_module"]) == (True, "power")


def test_the_first_of_two_micro_batches_is_looked_at() -> None:
    loop = Loop("stop", accumulation=2)
    loop.begin(1e20, 1.0)
    (line,) = loop.lines
    assert (line["first_module"], line["cause"]) == ("power", "loss")


def test_random_states_are_put_back_after_a_refusal() -> None:
    class Drawing(Loop):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor:
            drawn.append((random.random(), np.random.rand()))
            return super().compute_loss(*args, **kwargs)

    drawn: list[Any] = []
    after = []
    for action in ("log", "stop"):
        random.seed(1)
        np.random.seed(1)
        loop = Drawing(action)
        loop.begin(NAN)
        after.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert after[0] == after[1]
    # The second forward pass draws the numbers of the first one.
    assert drawn == [drawn[0]] * 3


def test_gradients_are_discarded_before_the_second_forward_pass() -> None:
    class Looking(Loop):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor:
            had_gradients.append(any(grad is not None for grad in self.gradients()))
            return super().compute_loss(*args, **kwargs)

    had_gradients: list[bool] = []
    loop = Looking("stop", accumulation=2)
    loop.begin(1.0, NAN)
    assert had_gradients == [False, True, False, False]


def test_without_a_forward_pass_none_is_checked() -> None:
    class Own(Loop):
        def training_step(
            self, model: nn.Module, inputs: Any, num_items_in_batch: int | None = None
        ) -> Tensor:
            loss: Tensor = model(**inputs)[0]
            loss.backward()
            return loss.detach()

    loop = Own("stop")
    loop.begin(NAN)
    (line,) = loop.lines
    assert (line["checked_forward"], line["first_module"]) == (False, None)
    assert loop.control.should_training_stop


def test_a_second_forward_pass_that_fails_is_not_checked() -> None:
    class Once(Loop):
        calls = 0

        def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("not again")
            return super().compute_loss(*args, **kwargs)

    loop = Once("stop")
    loop.begin(NAN)
    assert loop.lines[0]["checked_forward"] is False
    assert loop.control.should_training_stop
