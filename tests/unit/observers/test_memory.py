"""Memory is that of the process and of the device's allocator since the last logging step."""

import copy
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from tbtrainer.observers.memory import Memory

GIB = 2**30


def training_on(device: str, skip_memory_metrics: bool = True, is_zero: bool = True) -> Any:
    return SimpleNamespace(
        device=torch.device(device),
        training_arguments=SimpleNamespace(skip_memory_metrics=skip_memory_metrics),
        is_world_process_zero=is_zero,
    )


def shown(observer: Memory, step: int = 1) -> dict[str, float]:
    return {record.tag: record.value for record in observer.logging_step(step)}


def test_without_a_device_only_the_host_is_shown() -> None:
    observer = Memory()
    observer.run_begins(0, training_on("cpu"))
    assert set(shown(observer)) == {"memory/host_resident"}


def test_host_memory_is_the_resident_set_of_the_process() -> None:
    expected = psutil.Process(os.getpid()).memory_info().rss / GIB
    assert shown(Memory())["memory/host_resident"] == pytest.approx(expected, rel=0.2)


def test_memory_that_is_held_is_seen() -> None:
    observer = Memory()
    before = shown(observer)["memory/host_resident"]
    held = torch.ones(2**26, dtype=torch.uint8)
    assert (shown(observer)["memory/host_resident"] - before) * GIB > 0.5 * held.numel()


class Allocator:
    """What a CUDA allocator reports, on a machine without one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.retries = 4
        self.resets = 0
        monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: self.stats())
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)

    def stats(self) -> dict[str, int]:
        return {
            "allocated_bytes.all.current": 1 * GIB,
            "reserved_bytes.all.current": 3 * GIB,
            "allocated_bytes.all.peak": 2 * GIB,
            "num_alloc_retries": self.retries,
        }

    def reset(self, device: torch.device) -> None:
        self.resets += 1


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    return Allocator(monkeypatch)


@pytest.mark.parametrize(
    "tag, gib", [("memory/allocated", 1.0), ("memory/reserved", 3.0), ("memory/peak", 2.0)]
)
def test_a_device_shows_what_its_allocator_holds(
    allocator: Allocator, tag: str, gib: float
) -> None:
    observer = Memory()
    observer.run_begins(0, training_on("cuda:0"))
    assert shown(observer)[tag] == gib


def test_retries_are_those_since_the_last_logging_step(allocator: Allocator) -> None:
    observer = Memory()
    observer.run_begins(0, training_on("cuda:0"))
    retries = []
    for total in (4, 7, 7):
        allocator.retries = total
        retries.append(shown(observer)["memory/allocator_retries"])
    assert retries == [0, 3, 0]


@pytest.mark.parametrize("skips, resets", [(True, 2), (False, 0)])
def test_a_peak_that_the_trainer_measures_is_not_reset(
    allocator: Allocator, skips: bool, resets: int
) -> None:
    observer = Memory()
    observer.run_begins(0, training_on("cuda:0", skip_memory_metrics=skips))
    observer.logging_step(1)
    assert allocator.resets == resets


def test_a_rank_that_does_not_write_leaves_its_device_alone(allocator: Allocator) -> None:
    observer = Memory()
    observer.run_begins(0, training_on("cuda:1", is_zero=False))
    observer.logging_step(1)
    assert allocator.resets == 0


class Driver(ModuleType):
    """As the module `pynvml`, for a device that does not report its power."""

    NVMLError = RuntimeError
    NVML_TEMPERATURE_GPU = 0

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=75)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        raise self.NVMLError

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        return 61


def test_the_driver_reports_what_the_device_has(
    allocator: Allocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver("pynvml"))
    properties = SimpleNamespace(uuid="12-34")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    observer = Memory()
    observer.run_begins(0, training_on("cuda:0"))
    of_driver = {tag: value for tag, value in shown(observer).items() if "hardware/" in tag}
    assert of_driver == {"hardware/utilization": 0.75, "hardware/temperature": 61}


def test_a_copy_while_a_driver_is_known_is_possible(
    allocator: Allocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver("pynvml"))
    properties = SimpleNamespace(uuid="12-34")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    observer = Memory()
    observer.run_begins(0, training_on("cuda:0"))
    copied = copy.deepcopy(observer)
    assert not any("hardware/" in tag for tag in shown(copied))
    assert any("hardware/" in tag for tag in shown(observer))
