"""The accelerator of the tests notices when the host waits for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.accelerator import Accelerator


@pytest.mark.parametrize(
    "waiting",
    [
        lambda values: values.sum().item(),
        lambda values: bool((values > 1).any()),
        lambda values: values[values > 1],
        lambda values: values.masked_fill_(values > 1, 0).index_put_((values > 1,), values[:1]),
        lambda values: values.nonzero(),
        lambda values: values.cpu(),
        lambda values: torch.bincount(values.long()),
        lambda values: torch.unique(values),
        lambda values: torch.repeat_interleave(values, values.long()),
    ],
)
def test_an_operation_that_waits_is_refused(waiting: Callable[[Tensor], Any]) -> None:
    with Accelerator("lazy") as accelerator:
        accelerator.may_be_waited_for = False
        with pytest.raises(AssertionError, match="waits for the device"):
            waiting(accelerator.put(torch.arange(4.0)))


def test_an_operation_that_stays_there_is_allowed() -> None:
    with Accelerator("lazy") as accelerator:
        accelerator.may_be_waited_for = False
        values = accelerator.put(torch.arange(4.0))
        kept = torch.where(values > 1, values, 0).index_select(0, values.long())
        assert torch.sort(kept).values[:2].sum().inner == 0
