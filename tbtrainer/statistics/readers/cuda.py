"""Reads tensors on a CUDA device with the kernels of `cuda.cu`, compiled at run time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tbtrainer.statistics.buckets import (
    BUCKET_COUNT,
    LINEAR_BUCKET_COUNT,
    MANTISSA_BITS,
    MAX_EXPONENT,
    MIN_EXPONENT,
    ZERO_BUCKET,
)
from tbtrainer.statistics.readers.chunks import (
    beside,
    chunk_tables,
    chunks_to_measure,
    is_in_one_piece,
)
from tbtrainer.statistics.readers.nvrtc import CompiledKernels, cuda_library
from tbtrainer.statistics.readers.reader import INT64_COUNTERS, check_counters
from tbtrainer.statistics.tensor_statistics import TensorStatistics

SOURCE = Path(__file__).with_name("cuda.cu")
# Threads of a block. Three blocks fill a multiprocessor with 1,536 threads.
THREADS = 512
# The macros of the source.
CONSTANTS: dict[str, int | str] = {
    "THREADS": THREADS,
    "MANTISSA_BITS": MANTISSA_BITS,
    "MIN_EXPONENT": MIN_EXPONENT,
    "MAX_EXPONENT": MAX_EXPONENT,
    "BUCKET_COUNT": BUCKET_COUNT,
    "ZERO_BUCKET": ZERO_BUCKET,
    "LINEAR_BUCKET_COUNT": LINEAR_BUCKET_COUNT,
}

# The name of each dtype in the source. The kernels are compiled for the dtypes that occur only.
DTYPES = {
    torch.float32: "Float32",
    torch.bfloat16: "BFloat16",
    torch.float16: "Float16",
    torch.float64: "Float64",
}


class Kernels(Protocol):
    """What launches the kernels; see `CompiledKernels`."""

    def launch(
        self,
        name: str,
        device: torch.device,
        blocks: int,
        threads: int,
        arguments: Sequence[Tensor | None],
    ) -> None:
        """Launches a kernel on the current stream of a device."""
        ...


class CudaReader:
    """Reads tensors on a CUDA device. One launch reads all tensors of a dtype.

    Args:
        kernels: Launches the kernels of each dtype.
    """

    name = "CUDA C++"
    counter_dtypes = INT64_COUNTERS

    def __init__(self, kernels: Mapping[torch.dtype, Kernels]) -> None:
        self._kernels = kernels

    @classmethod
    def of_this_process(cls) -> "CudaReader | None":
        """Returns the reader, or `None` if PyTorch has no NVRTC, as with ROCm."""
        library = cuda_library()
        if library is None:
            return None
        source = SOURCE.read_text()
        return cls(
            {
                dtype: CompiledKernels(library, source, {**CONSTANTS, "DTYPE": name})
                for dtype, name in DTYPES.items()
            }
        )

    def supports(self, tensor: Tensor) -> bool:
        """Returns whether the tensor is a float of 16 to 64 bits whose memory has no gaps."""
        if tensor.dtype not in DTYPES or not is_in_one_piece(tensor):
            return False
        # A misaligned access would be an error that CUDA does not recover from.
        return tensor.data_ptr() % tensor.dtype.itemsize == 0

    def measure_into(
        self,
        out: TensorStatistics,
        rows: Sequence[int],
        tensors: Sequence[Tensor],
        loss_scale: Tensor | None,
    ) -> None:
        """Adds the statistics of tensors to rows of `out`; see `Reader`."""
        for dtype, *found in chunks_to_measure(out, rows, tensors, lambda tensor: tensor.dtype):
            table, device = found[0], found[0].device
            arguments = [*found, out.buckets, beside(loss_scale, device)]
            self._kernels[dtype].launch("measure", device, len(table), THREADS, arguments)

    def linear_into(
        self,
        out: Tensor,
        rows: Sequence[int],
        tensors: Sequence[Tensor],
        minimum: Tensor,
        maximum: Tensor,
        loss_scale: Tensor | None,
    ) -> None:
        """Adds to `out` the elements in equal buckets between the ends of each row."""
        check_counters(out)
        # The kernel takes addresses, so the ends have to be in one piece.
        minimum, maximum = minimum.contiguous(), maximum.contiguous()
        for dtype, table in chunk_tables(rows, tensors, lambda tensor: tensor.dtype):
            arguments = [table, out, minimum, maximum, beside(loss_scale, out.device)]
            self._kernels[dtype].launch("count_linear", out.device, len(table), THREADS, arguments)
