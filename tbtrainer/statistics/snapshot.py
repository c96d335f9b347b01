"""Statistics on their way from the device to the host."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from tbtrainer.statistics.tensor_statistics import TensorStatistics


@dataclass(frozen=True)
class HostSnapshot:
    """Statistics that are being copied to the host, without anybody waiting yet.

    Attributes:
        statistics: One row per tensor, in host memory once `arrived`.
        linear: Counts of the linear pass, int64, shape (small tensors, linear buckets).
        copied_event: Fires when the copies are complete; `None` if they already are.
    """

    statistics: TensorStatistics
    linear: Tensor
    copied_event: torch.cuda.Event | None

    @classmethod
    def copied(cls, statistics: TensorStatistics, linear: Tensor) -> "HostSnapshot":
        """Begins the copy. On CUDA it goes to pinned memory, on a stream beside the training's."""
        if not linear.is_cuda:
            on_host = TensorStatistics(
                **{f.name: getattr(statistics, f.name).cpu() for f in fields(statistics)}
            )
            return cls(on_host, linear.cpu(), None)
        side = _side_stream(linear.device)
        side.wait_stream(torch.cuda.current_stream(linear.device))
        with torch.cuda.stream(side):
            on_host = TensorStatistics(
                **{
                    f.name: _to_pinned(getattr(statistics, f.name), side)
                    for f in fields(statistics)
                }
            )
            linear_on_host = _to_pinned(linear, side)
            event = torch.cuda.Event()
            event.record(side)
        return cls(on_host, linear_on_host, event)

    def arrived(self) -> tuple[TensorStatistics, np.ndarray]:
        """Waits for the copy; returns the statistics as CPU tensors, the linear counts as numpy."""
        if self.copied_event is not None:
            self.copied_event.synchronize()
        return self.statistics, self.linear.numpy()


_side_streams: dict[torch.device, torch.cuda.Stream] = {}


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _side_streams:
        _side_streams[device] = torch.cuda.Stream(device)
    return _side_streams[device]


def _to_pinned(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    pinned.copy_(tensor, non_blocking=True)
    # The allocator must not give the memory to the training before the copy has read it.
    tensor.record_stream(stream)
    return pinned
