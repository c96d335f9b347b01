"""The fixed buckets: the leading bits of a float are its bucket number.

Sign, exponent and the top four mantissa bits of a float32 number its bucket: sixteen buckets per
factor of two, without a logarithm or a search. The buckets depend on no data, so counts of
different shards, ranks and steps simply add up.
"""

import numpy as np

# bfloat16 has the same leading bits as float32, so both give the same 13-bit key.
MANTISSA_BITS = 4
KEY_BITS = 1 + 8 + MANTISSA_BITS
KEY_COUNT = 2**KEY_BITS
POSITIVE_ZERO_KEY = 0
NEGATIVE_ZERO_KEY = KEY_COUNT // 2

# Magnitudes from 2**-40 up to 2**24 have buckets of their own; one bucket takes what is smaller,
# one what is larger, one the zeros.
MIN_EXPONENT = -40
MAX_EXPONENT = 24
_EXPONENT_BIAS = 127
_PER_OCTAVE = 2**MANTISSA_BITS
_PER_SIGN = (MAX_EXPONENT - MIN_EXPONENT) * _PER_OCTAVE + 2

BUCKET_COUNT = 2 * _PER_SIGN + 1
ZERO_BUCKET = _PER_SIGN
NONFINITE = -1

# The same bits of a float64, whose exponent is longer.
WIDE_KEY_BITS = 1 + 11 + MANTISSA_BITS
WIDE_KEY_COUNT = 2**WIDE_KEY_BITS
WIDE_NEGATIVE_ZERO_KEY = WIDE_KEY_COUNT // 2
_WIDE_EXPONENT_BIAS = 1023

# The second pass over small tensors: equal buckets between a tensor's minimum and maximum.
LINEAR_BUCKET_COUNT = 512
LINEAR_MAX_ELEMENTS = 65_536


def _magnitude_edges() -> np.ndarray:
    """Lower edges of the buckets of one sign, from underflow to overflow, and the upper end."""
    octaves = 2.0 ** np.arange(MIN_EXPONENT, MAX_EXPONENT)
    fractions = 1.0 + np.arange(_PER_OCTAVE) / _PER_OCTAVE
    inner = (octaves[:, None] * fractions[None, :]).ravel()
    return np.concatenate([[0.0], inner, [2.0**MAX_EXPONENT, np.inf]])


def _bucket_edges() -> np.ndarray:
    edges = _magnitude_edges()
    # The zero bucket has no width: both of its edges are 0.
    return np.concatenate([-edges[::-1], edges])


def _bucket_of_key() -> np.ndarray:
    """The bucket of every key, `NONFINITE` for the keys of infinities and NaN.

    The zero keys hold zeros and the smallest magnitudes together; here they are the latter.
    """
    keys = np.arange(KEY_COUNT)
    exponent = (keys >> MANTISSA_BITS) & 0xFF
    mantissa = keys & (_PER_OCTAVE - 1)
    inner = (exponent - _EXPONENT_BIAS - MIN_EXPONENT) * _PER_OCTAVE + mantissa + 1
    within = np.clip(inner, 0, _PER_SIGN - 1)
    bucket = np.where(keys < NEGATIVE_ZERO_KEY, ZERO_BUCKET + 1 + within, ZERO_BUCKET - 1 - within)
    return np.where(exponent == 0xFF, NONFINITE, bucket)


# float64, shape (BUCKET_COUNT + 1,), ascending. Bucket i holds what lies between edges i and i + 1;
# its edge nearer to zero belongs to it.
BUCKET_EDGES = _bucket_edges()

# int64, shape (KEY_COUNT,).
BUCKET_OF_KEY = _bucket_of_key()


def move_keys_to_buckets(keys: np.ndarray, elements: int) -> np.ndarray:
    """Returns the counts of the buckets for counts of float64 keys, and sets the latter to zero.

    Args:
        keys: Finite elements per key, without the zeros. int64, shape (WIDE_KEY_COUNT,).
        elements: Their sum. If the keys within the range of the buckets hold all of them, the other
            keys are not read.

    Returns:
        Elements per bucket. int64, shape (BUCKET_COUNT,).
    """
    begin = (MIN_EXPONENT + _WIDE_EXPONENT_BIAS) * _PER_OCTAVE
    end = (MAX_EXPONENT + _WIDE_EXPONENT_BIAS) * _PER_OCTAVE
    buckets = np.zeros(BUCKET_COUNT, np.int64)
    for signed_keys, signed_buckets in (
        (keys[:WIDE_NEGATIVE_ZERO_KEY], buckets[ZERO_BUCKET + 1 :]),
        (keys[WIDE_NEGATIVE_ZERO_KEY:], buckets[:ZERO_BUCKET][::-1]),
    ):
        signed_buckets[1:-1] = signed_keys[begin:end]
        signed_keys[begin:end] = 0
        if buckets.sum() < elements:
            signed_buckets[0], signed_buckets[-1] = (
                signed_keys[:begin].sum(),
                signed_keys[end:].sum(),
            )
            signed_keys.fill(0)
    return buckets
