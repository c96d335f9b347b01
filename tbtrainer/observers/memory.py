"""Shows the memory of device and host, and what the device's driver reports."""

from collections.abc import Iterator
from typing import Any

import psutil
import torch

from tbtrainer import tags
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.training import Training
from tbtrainer.records import Scalar

_GIB = 2**30


class Memory(Observer):
    """Shows how much memory world rank zero uses, at logging steps, without waiting for the device.

    On a CUDA device the peak is that since the last logging step, because
    `torch.cuda.reset_peak_memory_stats` is called after it was read. If `Trainer` measures the peak
    itself (`skip_memory_metrics=False`), it is not reset, and is that of the whole process.
    """

    def __init__(self) -> None:
        self._device: torch.device | None = None
        self._resets_peak = False
        self._retries = 0
        self._driver: Any = None

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Finds the device, and its driver if `nvidia-ml-py` is installed."""
        self._device, self._driver = None, None
        if training.device.type != "cuda" or not training.is_world_process_zero:
            return ()
        self._device = training.device
        self._driver = _driver_of(training.device)
        self._resets_peak = training.training_arguments.skip_memory_metrics
        self._retries = torch.cuda.memory_stats(self._device).get("num_alloc_retries", 0)
        if self._resets_peak:
            torch.cuda.reset_peak_memory_stats(self._device)
        return ()

    def logging_step(self, step: int) -> list[Scalar]:
        """Returns the figures as they are now."""
        # Not kept, because a `Process` cannot be copied, and a trainer can.
        resident = psutil.Process().memory_info().rss
        records = [Scalar(tags.MEMORY_HOST.name, resident / _GIB)]
        if self._device is not None:
            records += self._of_device(self._device)
        if self._driver is not None:
            records += _of_driver(*self._driver)
        return records

    def close(self) -> None:
        """Forgets the device."""
        self._device, self._driver = None, None

    def __getstate__(self) -> dict[str, Any]:
        """A copy does not know the driver, because a module cannot be copied."""
        return {**vars(self), "_driver": None}

    def _of_device(self, device: torch.device) -> Iterator[Scalar]:
        # Empty until something was allocated.
        known = torch.cuda.memory_stats(device)
        retries = known.get("num_alloc_retries", 0)
        gib = {
            tags.MEMORY_ALLOCATED: known.get("allocated_bytes.all.current", 0) / _GIB,
            tags.MEMORY_RESERVED: known.get("reserved_bytes.all.current", 0) / _GIB,
            tags.MEMORY_PEAK: known.get("allocated_bytes.all.peak", 0) / _GIB,
        }
        yield from (Scalar(tag.name, value) for tag, value in gib.items())
        yield Scalar(tags.MEMORY_RETRIES.name, retries - self._retries)
        self._retries = retries
        if self._resets_peak:
            torch.cuda.reset_peak_memory_stats(device)


def _driver_of(device: torch.device) -> tuple[Any, Any] | None:
    """Returns the module `pynvml` and its handle of a device; `None` if one is not available."""
    try:
        import pynvml

        pynvml.nvmlInit()
        # By identity, because `CUDA_VISIBLE_DEVICES` renumbers the devices.
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except Exception:  # Not installed, no driver, or a part of a device, which has no such name.
        return None


def _of_driver(nvml: Any, handle: Any) -> Iterator[Scalar]:
    """Yields what the driver reports. A figure that a device does not have is left out."""
    figures = {
        tags.DEVICE_UTILIZATION: lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        tags.DEVICE_POWER: lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        tags.DEVICE_TEMPERATURE: lambda: nvml.nvmlDeviceGetTemperature(
            handle, nvml.NVML_TEMPERATURE_GPU
        ),
    }
    for tag, read in figures.items():
        try:
            yield Scalar(tag.name, read())
        except nvml.NVMLError:
            continue
