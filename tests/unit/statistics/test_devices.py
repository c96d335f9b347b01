"""Statistics of tensors on devices other than the CPU, and of mixtures of devices."""

from dataclasses import replace

import pytest
import torch

from tbtrainer.statistics import (
    Snapshot,
    SnapshotRows,
    TensorStatistics,
    WholeTensors,
    measure,
    measure_linear,
    take_snapshot,
)
from tests.accelerator import Accelerator

CPU = torch.device("cpu")


def tensors() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(size, generator=generator) for size in (5, 300, 40_000, 100_000)]
    values[1][:3] = torch.tensor([0.0, torch.nan, torch.inf])
    return [*values, values[2].bfloat16().view(200, 200).t()]


def snapshot_of(parts: list[torch.Tensor], device: torch.device) -> Snapshot:
    names = [str(row) for row in range(len(parts))]
    rows = SnapshotRows.of(names, [part.numel() for part in parts], device)
    return take_snapshot(lambda: parts, rows, WholeTensors())


def assert_equal(found: TensorStatistics, expected: TensorStatistics) -> None:
    for name, values in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), values, rtol=1e-12, atol=1e-9, msg=name)


def test_a_device_without_float64_gets_whole_statistics() -> None:
    expected = snapshot_of(tensors(), CPU)
    with Accelerator("mps", has_float64=False) as accelerator:
        found = snapshot_of([accelerator.put(t) for t in tensors()], accelerator.device)
    assert_equal(found.statistics, expected.statistics)
    assert torch.equal(found.linear, expected.linear)


def test_a_loss_scale_divides_without_float64() -> None:
    values, scale = torch.randn(40_000) * 1024, torch.tensor(1024.0)
    expected = measure([values], CPU, scale)
    with Accelerator("mps", has_float64=False) as accelerator:
        found = measure([accelerator.put(values)], CPU, accelerator.put(scale))
    assert_equal(found, expected)


def test_cpu_tensors_are_counted_between_ends_from_an_accelerator() -> None:
    values = tensors()
    expected = measure(values, CPU)
    linear = measure_linear(values, expected.minimum, expected.maximum)
    with Accelerator("lazy") as accelerator:
        ends = accelerator.put(expected.minimum), accelerator.put(expected.maximum)
        found = measure_linear(values, *ends).inner
    assert torch.equal(found, linear)


def test_accelerator_tensors_are_measured_for_the_cpu() -> None:
    values = tensors()
    expected = measure(values, CPU)
    with Accelerator("lazy") as accelerator:
        found = measure([accelerator.put(t) for t in values], CPU)
    assert_equal(found, expected)


def test_a_snapshot_reaches_the_host_whole() -> None:
    expected = snapshot_of(tensors(), CPU)
    with Accelerator("lazy") as accelerator:
        parts = [accelerator.put(t) for t in tensors()]
        found = snapshot_of(parts, accelerator.device).to_host().wait()
    # In main memory the counters are int32, on an accelerator int64.
    in_64_bits = replace(expected.statistics, buckets=expected.statistics.buckets.long())
    assert_equal(found.statistics, in_64_bits)
    assert torch.equal(found.linear, expected.linear.long())


def test_parts_on_several_devices_share_rows() -> None:
    values = tensors()
    expected = measure(values, CPU, rows=[0, 1, 0, 1, 1], row_count=3)
    with Accelerator("lazy") as accelerator:
        mixed = [accelerator.put(t) if at % 2 else t for at, t in enumerate(values)]
        found = measure(mixed, CPU, rows=[0, 1, 0, 1, 1], row_count=3)
    assert_equal(found, expected)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_default_device_of_torch_does_not_matter(device: str) -> None:
    parts = tensors()
    expected = snapshot_of(parts, CPU)
    torch.set_default_device(device)
    try:
        found = snapshot_of(parts, CPU).to_host().wait()
    finally:
        torch.set_default_device(None)
    assert_equal(found.statistics, expected.statistics)
    assert torch.equal(found.linear, expected.linear)
