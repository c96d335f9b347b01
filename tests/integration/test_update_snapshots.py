"""Snapshots around the step of an optimizer: overflows of float16, and a thousand of them."""

from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor, nn

from tbtrainer.run import RunWriter
from tbtrainer.sharding import parameter_table
from tests.events import Histogram, event_files, histograms
from tests.recorder import Recorder

CPU = torch.device("cpu")
TARGETS = ["updates", "optimizer_state"]


class Loop:
    """Takes optimizer steps with a loss scale, and snapshots around each.

    Args:
        model: Takes one tensor.
        directory: The run directory.
    """

    def __init__(self, model: nn.Module, directory: Path) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        self.table = parameter_table(model, is_world_process_zero=True)
        self.writer = RunWriter(str(directory))
        self.recorder = Recorder(
            self.table, self.writer, CPU, optimizer=self.optimizer, histogram_targets=TARGETS
        )

    def step(self, step: int, inputs: Tensor) -> None:
        """Takes one step; the scaler skips it if a gradient is infinite."""
        self.scaler.scale(self.model(inputs).square().sum()).backward()
        scale = torch.tensor(self.scaler.get_scale())
        self.recorder.gradients(step, self.table.gradients(), scale)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.recorder.parameters(step)

    def shown(self, directory: Path) -> dict[tuple[str, int], Histogram]:
        """Ends the run and reads its histograms."""
        self.recorder.close()
        self.writer.close()
        (file,) = event_files(directory)
        return histograms(file)


def test_an_overflow_shows_no_update_and_no_new_state(tmp_path: Path) -> None:
    torch.manual_seed(0)
    loop = Loop(nn.Linear(3, 2), tmp_path)
    good, infinite = torch.ones(4, 3), torch.full((4, 3), 1e30)
    for step, inputs in enumerate([infinite, good, infinite, good], start=1):
        loop.step(step, inputs)
    shown = loop.shown(tmp_path)
    updates = {step: shown["updates/weight", step] for step in range(1, 5)}
    assert [h.minimum == h.maximum == 0 for h in updates.values()] == [True, False, True, False]
    assert all(h.count == 6 for h in updates.values())
    # The optimizer has states from its first step on, and an overflow leaves them as they were.
    states = {
        step: h for (tag, step), h in shown.items() if tag == "optimizer_state/exp_avg/weight"
    }
    assert sorted(states) == [2, 3, 4]
    assert states[2].sum_of_squares == states[3].sum_of_squares != states[4].sum_of_squares


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_thousand_snapshots_keep_no_memory(dtype: torch.dtype, tmp_path: Path) -> None:
    loop = Loop(nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 8)).to(dtype), tmp_path)
    process, inputs = psutil.Process(), torch.ones(4, 64, dtype=dtype)
    for step in range(1, 301):
        loop.step(step, inputs)
    loop.recorder.drain()
    before = process.memory_info().rss
    for step in range(301, 1301):
        loop.step(step, inputs)
    loop.recorder.drain()
    # One snapshot of the copies and the counters takes about 150 KB, a thousand of them 150 MB.
    assert process.memory_info().rss - before < 20 * 2**20
    loop.recorder.close()
    loop.writer.close()
