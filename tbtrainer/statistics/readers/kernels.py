"""The pass and the linear pass as two Triton kernels. One launch reads all tensors of a dtype.

Each program of a launch reads one chunk of one tensor into counters of its own. At its end it adds
them to the tensor's row. docs/kernel.md explains the kernels step by step. Importing this module
needs Triton.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
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
    on,
)
from tbtrainer.statistics.readers.reader import INT64_COUNTERS, check_counters
from tbtrainer.statistics.tensor_statistics import TensorStatistics

# Elements of one step of a program, in the pass and in the linear pass.
_BLOCK = 2048
_LINEAR_BLOCK = 1024

# Bytes. If every chunk begins at a multiple of this number, a thread loads this many at a time.
_ALIGNMENT = 16

# The layout of float32 and float64, and the fixed buckets (see `buckets.py`). A key is the exponent
# of a value and the leading bits of its fraction. Each key from `_FIRST_KEY` to `_LAST_KEY` has a
# bucket of its own.
_FRACTION_BITS = tl.constexpr(23)
_FRACTION = tl.constexpr(0x7FFFFF)
_EXPONENT_BIAS = tl.constexpr(127)
_DOUBLE_FRACTION_BITS = tl.constexpr(52)
_DOUBLE_EXPONENT_BIAS = tl.constexpr(1023)
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_INFINITY = tl.constexpr(0x7F800000)
_KEY_SHIFT = tl.constexpr(23 - MANTISSA_BITS)
_FIRST_KEY = tl.constexpr((MIN_EXPONENT + 127) << MANTISSA_BITS)
_LAST_KEY = tl.constexpr(((MAX_EXPONENT + 127) << MANTISSA_BITS) - 1)
_BUCKETS = tl.constexpr(BUCKET_COUNT)
_ZERO_BUCKET = tl.constexpr(ZERO_BUCKET)
_LAST_WITHIN = tl.constexpr(ZERO_BUCKET - 1)
_LINEAR_BUCKETS = tl.constexpr(LINEAR_BUCKET_COUNT)

# Each program counts into a private window of 255 buckets per sign, which is just under 16 octaves.
# The window ends half an octave above the largest value of the first block. Slot 0 of the positive
# half counts values outside the window. Slot 0 of the negative half counts zeros.
_WINDOW = tl.constexpr(256)
_ZEROS = tl.constexpr(256)
_SIGN_SHIFT = tl.constexpr(31 - 8)
_HEADROOM = tl.constexpr(8)
_UNSET = tl.constexpr(1 << 20)

# The dtypes that the kernels read, and the dtype as which each is loaded. The bits of a bfloat16
# are the upper half of a float32's, so it is loaded as an integer and shifted.
_LOADED_AS = {
    torch.float32: torch.float32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.float16,
    torch.float8_e5m2: torch.float8_e5m2,
    torch.float8_e4m3fn: torch.float8_e4m3fn,
}
# The compute capability that a dtype needs. The others need (7, 0).
_CAPABILITY = {torch.float8_e4m3fn: (8, 9), torch.float8_e5m2: (8, 9)}


class KernelReader:
    """Reads tensors with the kernels, on CUDA or, in Triton's interpreter, on the CPU."""

    name = "Triton"
    counter_dtypes = INT64_COUNTERS

    def supports(self, tensor: Tensor) -> bool:
        """Returns whether the tensor is a float of up to 32 bits whose memory has no gaps."""
        if tensor.dtype not in _LOADED_AS:
            return False
        if tensor.is_cuda and torch.version.hip is None:
            capability = torch.cuda.get_device_capability(tensor.device)
            if capability < _CAPABILITY.get(tensor.dtype, (7, 0)):
                return False
        return is_in_one_piece(tensor)

    def measure_into(
        self,
        out: TensorStatistics,
        rows: Sequence[int],
        tensors: Sequence[Tensor],
        loss_scale: Tensor | None,
    ) -> None:
        """Adds the statistics of tensors to rows of `out`; see `Reader`."""
        for (dtype, alignment), table, sums, counts in chunks_to_measure(
            out, rows, tensors, _dtype_and_alignment
        ):
            device = table.device
            with on(device):
                _measure[(len(table),)](
                    table,
                    sums,
                    counts,
                    out.buckets,
                    beside(loss_scale, device),
                    _like(dtype, device),
                    ALIGNMENT=alignment,
                    BLOCK=_BLOCK,
                    num_warps=4,
                )

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
        for (dtype, _), table in chunk_tables(rows, tensors, _dtype_and_alignment):
            with on(out.device):
                _count_linear[(len(table),)](
                    table,
                    out,
                    minimum,
                    maximum,
                    beside(loss_scale, out.device),
                    _like(dtype, out.device),
                    BLOCK=_LINEAR_BLOCK,
                    num_warps=4,
                )


def _dtype_and_alignment(tensor: Tensor) -> tuple[torch.dtype, int]:
    """Returns the dtype of a tensor and the alignment of its chunks' addresses in bytes."""
    return tensor.dtype, tensor.dtype.itemsize if tensor.data_ptr() % _ALIGNMENT else _ALIGNMENT


def _like(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns an empty tensor whose pointer type is that of the chunks of a dtype.

    The kernels take the type from this tensor. Triton 3.0 and 3.1 cannot make a pointer type from a
    constant. Up to Triton 3.9 a pointer type cannot be a constant, because it cannot be hashed.
    """
    return torch.empty(0, dtype=_LOADED_AS[dtype], device=device)


# In Triton's language only constants are annotated.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202, N803


@triton.jit
def _measure(
    table,
    sums,
    counts,
    buckets,
    loss_scale,
    like,
    ALIGNMENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Reads one chunk. Stores its sums and counts by chunk, and adds its buckets to the row."""
    chunk = tl.program_id(0)
    source = tl.load(table + 3 * chunk).to(like.dtype)
    source = tl.multiple_of(source, ALIGNMENT)
    size = tl.load(table + 3 * chunk + 1).to(tl.int32)
    row = tl.load(table + 3 * chunk + 2)
    buckets += row * _BUCKETS

    total = tl.full((), 0.0, tl.float64)
    squares = tl.full((), 0.0, tl.float64)
    minimum = tl.full((BLOCK,), float("inf"), tl.float32)
    maximum = tl.full((BLOCK,), float("-inf"), tl.float32)
    nonfinite = tl.full((), 0, tl.int32)
    window = tl.zeros((2 * _WINDOW,), tl.int32)
    base = tl.full((), _UNSET, tl.int32)

    offsets = tl.arange(0, BLOCK)
    whole = size // BLOCK * BLOCK
    for begin in range(0, whole, BLOCK):
        values = _as_float32(tl.load(source + begin + offsets))
        total, squares, minimum, maximum, nonfinite, window, base = _add_block(
            values, None, loss_scale, buckets, total, squares, minimum, maximum, nonfinite, window,
            base, BLOCK,
        )  # fmt: skip
    if whole < size:
        inside = offsets < size - whole
        values = _as_float32(tl.load(source + whole + offsets, mask=inside, other=0.0))
        total, squares, minimum, maximum, nonfinite, window, base = _add_block(
            values, inside, loss_scale, buckets, total, squares, minimum, maximum, nonfinite,
            window, base, BLOCK,
        )  # fmt: skip

    number = tl.arange(0, 2 * _WINDOW)
    place = number % _WINDOW
    within = base + place - _FIRST_KEY + 1
    bucket = tl.where(number >= _WINDOW, -within + _ZERO_BUCKET - 1, within + _ZERO_BUCKET + 1)
    filled = (place > 0) & (window > 0)
    tl.atomic_add(buckets + bucket, window.to(tl.int64), mask=filled, sem="relaxed")
    # The slot of the zeros also counted the non-finite values and the padding of the last block.
    others = nonfinite + tl.cdiv(size, BLOCK) * BLOCK - size
    zeros = tl.sum(tl.where(number == _ZEROS, window, 0), axis=0) - others

    tl.store(sums + 4 * chunk, total)
    tl.store(sums + 4 * chunk + 1, squares)
    tl.store(sums + 4 * chunk + 2, tl.min(minimum, axis=0).to(tl.float64))
    tl.store(sums + 4 * chunk + 3, tl.max(maximum, axis=0).to(tl.float64))
    tl.store(counts + 3 * chunk, size.to(tl.int64))
    tl.store(counts + 3 * chunk + 1, zeros.to(tl.int64))
    tl.store(counts + 3 * chunk + 2, nonfinite.to(tl.int64))


@triton.jit
def _as_float32(loaded):
    """Returns the elements in float32. A bfloat16 is given as its bits in an int16."""
    if loaded.dtype == tl.int16:
        values = (loaded.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        values = loaded.to(tl.float32)
    return values


@triton.jit
def _divided(values, loss_scale):
    """Returns the values divided by the loss scale, correctly rounded, subnormal quotients too.

    Up to Triton 3.5 the division of Triton is compiled to `div.rn.ftz.f32`, which turns quotients
    below 1.2e-38 into zeros. If the loss scale is a power of two, which is the default, the values
    are multiplied by its inverse, which gives the same quotient. Otherwise they are divided in
    float64.
    """
    scale = tl.load(loss_scale)
    bits = scale.to(tl.int32, bitcast=True)
    exponent = bits >> _FRACTION_BITS
    # True for powers of two from 2**-126 to 2**126. Their inverses are normal numbers of float32.
    if ((bits & _FRACTION) == 0) & (exponent > 0) & (exponent < 2 * _EXPONENT_BIAS):
        inverse = ((-exponent + 2 * _EXPONENT_BIAS) << _FRACTION_BITS).to(tl.float32, bitcast=True)
        quotient = values * inverse
    else:
        quotient = (values.to(tl.float64) / scale.to(tl.float64)).to(tl.float32)
    return quotient


@triton.jit
def _add_block(
    values, inside, loss_scale, buckets, total, squares, minimum, maximum, nonfinite, window, base,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds the values of a block to the counters and sums of a program.

    `inside` says which values belong to the chunk. It is None if all do.
    """
    if loss_scale is not None:
        values = _divided(values, loss_scale)
    lower = values
    higher = values
    if inside is not None:
        lower = tl.where(inside, values, float("inf"))
        higher = tl.where(inside, values, float("-inf"))
    bits = values.to(tl.int32, bitcast=True)
    largest = tl.max(bits & _MAGNITUDE, axis=0)
    # Only blocks with a NaN or an infinity take this branch.
    if largest >= _INFINITY:
        finite = (bits & _MAGNITUDE) < _INFINITY
        nonfinite += BLOCK - tl.sum(finite.to(tl.int32), axis=0)
        lower = tl.where(finite, lower, float("inf"))
        higher = tl.where(finite, higher, float("-inf"))
        values = tl.where(finite, values, 0.0)
        bits = tl.where(finite, bits, 0)
        largest = tl.max(bits & _MAGNITUDE, axis=0)
    magnitude = bits & _MAGNITUDE
    minimum = tl.minimum(minimum, lower)
    maximum = tl.maximum(maximum, higher)

    # The values are divided by a power of two near the largest one, so that no square overflows or
    # vanishes in float32. The block is added up in float32, and the blocks in float64.
    exponent = tl.minimum(tl.maximum(largest >> _FRACTION_BITS, 1), 253)
    # Constants stand on the right, because the interpreter would make a constant of the result.
    factor = (-exponent + 2 * _EXPONENT_BIAS) << _FRACTION_BITS
    scaled = values * factor.to(tl.float32, bitcast=True)
    exponent += _DOUBLE_EXPONENT_BIAS - _EXPONENT_BIAS
    unit = (exponent.to(tl.int64) << _DOUBLE_FRACTION_BITS).to(tl.float64, bitcast=True)
    total += tl.sum(scaled, axis=0).to(tl.float64) * unit
    squares += tl.sum(scaled * scaled, axis=0).to(tl.float64) * unit * unit

    first = tl.minimum((largest >> _KEY_SHIFT) + _HEADROOM, _LAST_KEY) - (_WINDOW - 1)
    base = tl.where((base == _UNSET) & (largest > 0), tl.maximum(first, _FIRST_KEY - 1), base)
    place = (magnitude >> _KEY_SHIFT) - base
    near = (place > 0) & (place < _WINDOW)
    zero = magnitude == 0
    sign = (bits >> _SIGN_SHIFT) & _WINDOW
    counter = tl.where(near, place + sign, zero.to(tl.int32) * _ZEROS)
    window += tl.histogram(counter, 2 * _WINDOW)
    # The few values outside the window are added to the row at once.
    if tl.min(counter, axis=0) == 0:
        within = (magnitude >> _KEY_SHIFT) - _FIRST_KEY + 1
        within = tl.minimum(tl.maximum(within, 0), _LAST_WITHIN)
        bucket = tl.where(bits < 0, -within + _ZERO_BUCKET - 1, within + _ZERO_BUCKET + 1)
        one = tl.full((BLOCK,), 1, tl.int64)
        tl.atomic_add(buckets + bucket, one, mask=counter == 0, sem="relaxed")
    return total, squares, minimum, maximum, nonfinite, window, base


@triton.jit
def _count_linear(table, counts, low, high, loss_scale, like, BLOCK: tl.constexpr):
    """Counts one chunk in equal buckets, and adds the counts to the tensor's row."""
    chunk = tl.program_id(0)
    source = tl.load(table + 3 * chunk).to(like.dtype)
    size = tl.load(table + 3 * chunk + 1).to(tl.int32)
    row = tl.load(table + 3 * chunk + 2)
    # Halves are used because the difference of two float64 may overflow.
    least = tl.load(low + row) / 2
    width = (tl.load(high + row) / 2 - least) / _LINEAR_BUCKETS
    width = tl.where(width > 0, width, 1.0)

    number = tl.arange(0, _LINEAR_BUCKETS)
    window = tl.zeros((_LINEAR_BUCKETS,), tl.int32)
    for begin in range(0, size, BLOCK):
        offsets = begin + tl.arange(0, BLOCK)
        inside = offsets < size
        values = _as_float32(tl.load(source + offsets, mask=inside, other=0.0))
        if loss_scale is not None:
            values = _divided(values, loss_scale)
        finite = inside & ((values.to(tl.int32, bitcast=True) & _MAGNITUDE) < _INFINITY)
        place = (tl.where(finite, values, 0.0).to(tl.float64) / 2 - least) / width
        place = tl.minimum(tl.maximum(place, 0.0), _LINEAR_BUCKETS - 1.0).to(tl.int32)
        window += tl.histogram(tl.where(finite, place, 0), _LINEAR_BUCKETS)
        # Non-finite values and padding were counted in the first bucket, and are taken out again.
        others = BLOCK - tl.sum(finite.to(tl.int32), axis=0)
        window -= tl.where(number == 0, others, 0)
    tl.atomic_add(
        counts + row * _LINEAR_BUCKETS + number, window.to(tl.int64), mask=window > 0, sem="relaxed"
    )
