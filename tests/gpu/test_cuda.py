"""On a CUDA device: equal to the CPU, never waited for, no memory kept, the training unchanged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.run import RunWriter
from tbtrainer.sharding import parameter_table
from tbtrainer.statistics import measure, measure_linear
from tests.events import event_files, histograms
from tests.gradients import Norms
from tests.recorder import Recorder
from tests.tiny import arguments, classifier, equal, trainer

pytestmark = pytest.mark.gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BACKENDS = pytest.mark.parametrize("backend", ["kernel", "plain"])


def tensors_of(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(n, generator=generator) * 0.02 for n in (1, 700, 4096, 70_001, 3_000_000)]
    values[1][::3], values[2][:5] = (
        0.0,
        torch.tensor([torch.nan, torch.inf, -torch.inf, 1e-42, -0.0]),
    )
    values.append(torch.ldexp(torch.ones(9000), torch.linspace(-148, 127, 9000)))
    values.append(torch.randn(60, 50, generator=generator).t())
    values.append(torch.empty(0))
    return [value.to(dtype) for value in values]


@BACKENDS
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e5m2],
    ids=str,
)
def test_the_device_finds_what_the_cpu_finds(backend: str, dtype: torch.dtype) -> None:
    tensors = tensors_of(dtype)
    expected = measure(tensors, CPU)
    on_device = [tensor.to(CUDA) for tensor in tensors]
    found = measure(on_device, CUDA, backend=backend)
    for field in ("count", "zeros", "nonfinite", "minimum", "maximum", "buckets"):
        assert torch.equal(getattr(found, field).cpu(), getattr(expected, field)), field
    torch.testing.assert_close(
        found.sum_of_squares.cpu(), expected.sum_of_squares, rtol=1e-6, atol=0
    )
    size = (expected.count * expected.sum_of_squares).sqrt()
    assert ((found.sum.cpu() - expected.sum).abs() <= 1e-6 * size).all()
    linear = measure_linear(on_device, found.minimum, found.maximum, backend=backend)
    assert torch.equal(linear.cpu(), measure_linear(tensors, expected.minimum, expected.maximum))


@BACKENDS
@pytest.mark.parametrize("scale", [None, 4096.0, 3000.0])
def test_tensors_that_share_a_row_are_counted_together(backend: str, scale: float | None) -> None:
    tensors = tensors_of(torch.float32)[:5]
    loss_scale = None if scale is None else torch.tensor(scale)
    rows = [0, 1, 0, 1, 0]
    expected = measure(tensors, CPU, loss_scale, rows=rows, row_count=2)
    on_device = [tensor.to(CUDA) for tensor in tensors]
    on_device_scale = None if loss_scale is None else loss_scale.to(CUDA)
    found = measure(on_device, CUDA, on_device_scale, backend, rows, 2)
    for field in ("count", "nonfinite", "buckets"):
        assert torch.equal(getattr(found, field).cpu(), getattr(expected, field)), field


def observed(directory: Path) -> tuple[Recorder, Norms, torch.nn.Module]:
    model = classifier().to(CUDA)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    table = parameter_table(model, is_world_process_zero=True)
    recorder = Recorder(table, RunWriter(str(directory)), CUDA)
    return recorder, Norms(table, "block", 1.0, device=CUDA), model


def test_nothing_waits_for_the_device(tmp_path: Path) -> None:
    recorder, norms, model = observed(tmp_path)
    parts = [parameter.grad for parameter in model.parameters()]
    # The first of each compiles the kernels and makes what stays.
    recorder.gradients(1, parts)
    norms.accumulate(parts)
    recorder.drain()
    torch.cuda.set_sync_debug_mode("error")
    try:
        norms.accumulate(parts)
        recorder.gradients(2, parts, torch.ones((), device=CUDA))
    finally:
        torch.cuda.set_sync_debug_mode("default")
        recorder.close()


def test_a_thousand_snapshots_keep_no_memory(tmp_path: Path) -> None:
    recorder, norms, model = observed(tmp_path)
    parts = [parameter.grad for parameter in model.parameters()]
    before = None
    for step in range(1000):
        recorder.gradients(step, parts)
        norms.accumulate(parts)
        norms.summary()
        if step == 10:
            recorder.drain()
            before = torch.cuda.memory_allocated()
    recorder.close()
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_a_snapshot_shows_the_values_of_its_own_step(tmp_path: Path) -> None:
    model = torch.nn.Linear(64, 64, device=CUDA)
    table = parameter_table(model, is_world_process_zero=True)
    writer = RunWriter(str(tmp_path))
    recorder = Recorder(table, writer, CUDA)
    with torch.no_grad():
        for step in range(1, 20):
            model.weight.fill_(step)
            recorder.parameters(step)
    recorder.close()
    writer.close()
    (file,) = event_files(tmp_path)
    shown = histograms(file)
    for step in range(1, 20):
        assert shown["parameters/weight", step].minimum == step


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bf16": True},
        {"fp16": True},
        {"torch_compile": True},
        {"gradient_checkpointing": True},
        {"gradient_accumulation_steps": 2},
    ],
    ids=lambda changes: next(iter(changes), "plain"),
)
def test_the_training_is_unchanged_to_the_last_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    values = {"use_cpu": False, "full_determinism": True, **changes}
    made = {}
    for cls, args_cls, more in (
        (Trainer, TrainingArguments, {}),
        (TBTrainer, TBTrainingArguments, {"histogram_steps": 1, "telemetry_errors": "raise"}),
    ):
        args = arguments(args_cls, tmp_path / cls.__name__, **values, **more)
        made[cls] = trainer(cls, args)
        made[cls].train()
    stock, ours = made[Trainer], made[TBTrainer]
    assert next(ours.model.parameters()).is_cuda
    assert (ours.accelerator.scaler is not None) == ("fp16" in changes)
    assert equal(dict(stock.model.state_dict()), dict(ours.model.state_dict()))
    assert equal(stock.optimizer.state_dict(), ours.optimizer.state_dict())
    (file,) = event_files(tmp_path / "TBTrainer")
    assert {step for _, step in histograms(file)} == set(range(1, 11))
