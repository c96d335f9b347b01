"""The fixed buckets: the bucket number of a float32 is read from its leading bits.

The sign, the exponent and the top four bits of the mantissa give the number, without a logarithm or
a search. There are sixteen buckets per factor of two. The buckets depend on no data, so the counts
of shards, ranks and steps can be added.
"""

import numpy as np

# A key is these leading bits. A bfloat16 and the float32 of the same value have the same key.
MANTISSA_BITS = 4
KEY_BITS = 1 + 8 + MANTISSA_BITS
KEY_COUNT = 2**KEY_BITS
POSITIVE_ZERO_KEY = 0
NEGATIVE_ZERO_KEY = KEY_COUNT // 2

# Each sign has sixteen buckets per octave from 2**-40 to 2**24, one bucket for smaller magnitudes
# and one for larger ones. Zeros have one bucket.
MIN_EXPONENT = -40
MAX_EXPONENT = 24
_EXPONENT_BIAS = 127
_PER_OCTAVE = 2**MANTISSA_BITS
_PER_SIGN = (MAX_EXPONENT - MIN_EXPONENT) * _PER_OCTAVE + 2

BUCKET_COUNT = 2 * _PER_SIGN + 1
ZERO_BUCKET = _PER_SIGN
NONFINITE = -1

# A wide key is the sign, the exponent and the top four bits of the mantissa of a float64.
WIDE_KEY_BITS = 1 + 11 + MANTISSA_BITS
WIDE_KEY_COUNT = 2**WIDE_KEY_BITS
WIDE_NEGATIVE_ZERO_KEY = WIDE_KEY_COUNT // 2
_WIDE_EXPONENT_BIAS = 1023

# The linear pass over small tensors counts in equal buckets between minimum and maximum.
LINEAR_BUCKET_COUNT = 512
LINEAR_MAX_ELEMENTS = 65_536
# The most larger rows that get a linear pass in a snapshot, because their values are close.
NARROW_MAX_ROWS = 64


def _magnitude_edges() -> np.ndarray:
    """Returns the edges of the buckets of one sign, from 0 to infinity."""
    octaves = 2.0 ** np.arange(MIN_EXPONENT, MAX_EXPONENT)
    fractions = 1.0 + np.arange(_PER_OCTAVE) / _PER_OCTAVE
    inner = (octaves[:, None] * fractions[None, :]).ravel()
    return np.concatenate([[0.0], inner, [2.0**MAX_EXPONENT, np.inf]])


def _bucket_edges() -> np.ndarray:
    edges = _magnitude_edges()
    # Both edges of the zero bucket are 0.
    return np.concatenate([-edges[::-1], edges])


def _bucket_of_key() -> np.ndarray:
    """Returns the bucket of every key, `NONFINITE` for the keys of infinities and NaN.

    Zeros and the smallest magnitudes have the same key. It leads to the bucket of the smallest
    magnitudes; zeros have to be counted apart.
    """
    keys = np.arange(KEY_COUNT)
    exponent = (keys >> MANTISSA_BITS) & 0xFF
    mantissa = keys & (_PER_OCTAVE - 1)
    inner = (exponent - _EXPONENT_BIAS - MIN_EXPONENT) * _PER_OCTAVE + mantissa + 1
    within = np.clip(inner, 0, _PER_SIGN - 1)
    bucket = np.where(keys < NEGATIVE_ZERO_KEY, ZERO_BUCKET + 1 + within, ZERO_BUCKET - 1 - within)
    return np.where(exponent == 0xFF, NONFINITE, bucket)


# float64, shape (BUCKET_COUNT + 1,), ascending. Bucket i holds the values between the edges i and
# i + 1. A value on an edge belongs to the bucket on the side away from zero.
BUCKET_EDGES = _bucket_edges()

# int64, shape (KEY_COUNT,).
BUCKET_OF_KEY = _bucket_of_key()


def move_keys_to_buckets(keys: np.ndarray, elements: int) -> np.ndarray:
    """Turns counts per wide key into counts per bucket, and sets the counts per key to zero.

    Args:
        keys: Finite elements per wide key, without the zeros. int64, shape (WIDE_KEY_COUNT,).
        elements: Sum of `keys`. Keys beyond the range of the buckets are only read if the keys
            within it hold fewer elements than this.

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
