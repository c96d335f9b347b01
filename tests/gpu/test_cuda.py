"""On a CUDA device: equal to the CPU, never waited for, no memory kept, the training unchanged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.run import RunWriter
from tbtrainer.sharding import parameter_table
from tbtrainer.statistics import TensorStatistics, measure, measure_linear, prepare
from tbtrainer.statistics.readers.choice import _kernel_readers, reader_of
from tbtrainer.statistics.readers.cuda import DTYPES, THREADS, CudaReader
from tbtrainer.statistics.readers.nvrtc import CompiledKernels
from tests.events import event_files, histograms
from tests.gradients import Norms
from tests.recorder import Recorder
from tests.tiny import arguments, classifier, equal, trainer

pytestmark = pytest.mark.gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
COUNTS = ("count", "zeros", "nonfinite", "minimum", "maximum", "buckets")
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
    for field in COUNTS:
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


def normal(size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size)) * 0.02


@pytest.mark.skipif(torch.version.cuda is None, reason="ROCm has no NVRTC")
@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
def test_the_cuda_kernels_are_the_first_choice(dtype: torch.dtype) -> None:
    assert reader_of(torch.ones(1, dtype=dtype, device=CUDA), "auto").name == CudaReader.name


@pytest.mark.parametrize("reader", _kernel_readers("cuda"), ids=lambda reader: reader.name)
def test_every_reader_with_kernels_finds_what_the_cpu_finds(reader: Any) -> None:
    tensors = [t for t in tensors_of(torch.float32) if t.numel()]
    expected = measure(tensors, CPU)
    on_device = [tensor.to(CUDA) for tensor in tensors]
    found = TensorStatistics.empty(len(tensors), on_device[0].device)
    reader.measure_into(found, range(len(tensors)), on_device, None)
    for field in COUNTS:
        assert torch.equal(getattr(found, field).cpu(), getattr(expected, field)), field


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_memory_at_any_address(dtype: torch.dtype) -> None:
    whole = normal(70_000).to(dtype)
    tensors = [whole[begin : begin + size] for begin in range(9) for size in (1, 20, 69_000)]
    on_device = whole.to(CUDA)
    moved = [on_device[begin : begin + size] for begin in range(9) for size in (1, 20, 69_000)]
    expected, found = measure(tensors, CPU), measure(moved, CUDA, backend="kernel")
    for field in COUNTS:
        assert torch.equal(getattr(found, field).cpu(), getattr(expected, field)), field


@pytest.mark.parametrize("scale", [65536.0, 3000.0])
def test_quotients_are_those_of_the_cpu(scale: float) -> None:
    quotients = torch.cat(
        [normal(5000), torch.ldexp(torch.ones(500), torch.linspace(-148, 0, 500))]
    )
    gradients = (quotients.double() * scale).float()
    expected = measure([(gradients.double() / scale).float()], CPU)
    loss_scale = torch.tensor(scale, device=CUDA)
    found = measure([gradients.to(CUDA)], CUDA, loss_scale, backend="kernel")
    for field in COUNTS:
        assert torch.equal(getattr(found, field).cpu(), getattr(expected, field)), field


def test_more_than_two_billion_elements_are_read() -> None:
    elements = 2**31 + 7
    if torch.cuda.mem_get_info()[0] < 3 * elements:
        pytest.skip("the tensor takes 4 GiB, and its table of chunks some more")
    values = torch.ones(elements, dtype=torch.bfloat16, device=CUDA)
    values[-7:] = torch.arange(2.0, 9.0)
    found = measure([values], CUDA, backend="kernel")
    assert found.count.item() == found.buckets.sum().item() == elements
    assert (found.minimum.item(), found.maximum.item()) == (1.0, 8.0)
    assert found.sum.item() == pytest.approx(elements - 7 + sum(range(2, 9)), rel=1e-9)


def test_the_kernels_run_on_the_current_stream() -> None:
    values, ones = torch.zeros(2**26, device=CUDA), torch.ones(2**26, device=CUDA)
    prepare([torch.float32], CUDA)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # The copies are still running when the kernel is launched. Another stream would read zeros.
        for _ in range(50):
            values.copy_(ones)
        values.add_(1)
        found = measure([values], CUDA)
    stream.synchronize()
    assert found.minimum.item() == 2.0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two devices")
def test_tensors_of_two_devices_are_read_where_they_are() -> None:
    tensors = [normal(70_000), normal(500)]
    expected = measure(tensors, CPU)
    on_devices = [tensor.to(f"cuda:{number}") for number, tensor in enumerate(tensors)]
    found = measure(on_devices, CUDA, backend="kernel")
    for field in COUNTS:
        assert torch.equal(getattr(found, field).cpu(), getattr(expected, field)), field


@pytest.mark.skipif(torch.version.cuda is None, reason="ROCm has no NVRTC")
def test_a_prepared_snapshot_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare([torch.float32, torch.bfloat16], CUDA)
    monkeypatch.setattr(CompiledKernels, "compile", lambda *_: pytest.fail("compiled"))
    tensors = [normal(100).to(CUDA), normal(100).to(CUDA, torch.bfloat16)]
    assert measure(tensors, CUDA, backend="kernel").count.tolist() == [100, 100]


@pytest.mark.skipif(torch.version.cuda is None, reason="ROCm has no NVRTC")
def test_a_captured_pass_reads_the_values_of_its_replay() -> None:
    # Inside of a capture no memory can be pinned, so only the launch is captured.
    reader = CudaReader.of_this_process()
    assert reader is not None
    values = normal(3000).to(CUDA)
    table = torch.tensor([[values.data_ptr(), 3000, 0]], device=CUDA)
    sums = torch.empty(1, 4, dtype=torch.float64, device=CUDA)
    counts = torch.empty(1, 3, dtype=torch.int64, device=CUDA)
    buckets = TensorStatistics.empty(1, values.device).buckets
    arguments = [table, sums, counts, buckets, None]
    # Compiled and loaded before the capture.
    reader._kernels[torch.float32].launch("measure", values.device, 1, THREADS, arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        reader._kernels[torch.float32].launch("measure", values.device, 1, THREADS, arguments)
    values.fill_(3.0)
    graph.replay()
    assert sums.tolist() == [[9000.0, 27000.0, 3.0, 3.0]]
