/* The loops over the elements of one block; `cpu_pass.c` includes them.
 *
 * They are written so that compilers vectorise them, and divide the work into several short loops
 * over buffers that fit the first cache. -O3 is needed; gcc's -O2 is three times slower.
 */

#ifndef TBTRAINER_CPU_BLOCKS_H
#define TBTRAINER_CPU_BLOCKS_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "cpu_elements.h"

/* Most elements of a block. */
#define BLOCK 1024
/* Vectors of partial sums, so that additions need not wait for each other. */
#define VECTORS 4

/* The fixed buckets, as in `buckets.py`. The tests compare the results. */
#define KEY_SHIFT 19 /* leaves the leading 13 bits of a float32 */
#define FIRST_KEY ((127 - 40) << 4)
#define PER_SIGN ((24 + 40) * 16 + 2)
#define ZERO_BUCKET PER_SIGN
#define BUCKETS (2 * PER_SIGN + 1)
#define LINEAR_BUCKETS 512

typedef struct {
    double sum, squares, minimum, maximum;
} Sums;

/* 16 KiB. `index` holds the bucket of each element. */
typedef struct {
    int32_t index[BLOCK];
    float single[BLOCK];
    double wide[BLOCK];
} Buffers;

/* ---- Elements in float32 or float64 ---- */

INLINE uint32_t bits_of_half(uint32_t half)
{
    /* The exponents of float16 and float32 differ by 112. The product is exact, and it normalises
     * the subnormal numbers. */
    const uint32_t magnitude = (half & 0x7fff) << 13;
    float value;
    uint32_t bits;
    memcpy(&value, &magnitude, sizeof value);
    value *= 0x1p112f;
    memcpy(&bits, &value, sizeof bits);
    bits |= magnitude >= 0x7c00 << 13 ? 0x7f800000 : 0;
    return bits | (half & 0x8000) << 16;
}

/* Returns n elements in float32: where they are if that is possible, else in the buffer. */
INLINE const float *singles(const char *elements, int dtype, int n, float *buffer)
{
    uint32_t bits[BLOCK];
    uint16_t halves[BLOCK];
    if (dtype == FLOAT32) {
        if ((uintptr_t)elements % sizeof(float) == 0)
            return (const float *)elements;
        memcpy(buffer, elements, (size_t)n * sizeof(float));
        return buffer;
    }
    memcpy(halves, elements, (size_t)n * sizeof *halves);
    if (dtype == BFLOAT16)
        for (int i = 0; i < n; i++)
            bits[i] = (uint32_t)halves[i] << 16;
    else
        for (int i = 0; i < n; i++)
            bits[i] = bits_of_half(halves[i]);
    memcpy(buffer, bits, (size_t)n * sizeof(float));
    return buffer;
}

/* Puts n elements into `buffers->wide`, divided by the loss scale if there is one. */
INLINE void widen(
    Buffers *buffers, const char *elements, int dtype, int n, const double *loss_scale)
{
    double *wide = buffers->wide;
    if (dtype == FLOAT64) {
        memcpy(wide, elements, (size_t)n * sizeof *wide);
    } else {
        const float *single = singles(elements, dtype, n, buffers->single);
        for (int i = 0; i < n; i++)
            wide[i] = single[i];
    }
    if (loss_scale) {
        const double scale = *loss_scale;
        for (int i = 0; i < n; i++)
            wide[i] /= scale;
    }
}

/* ---- The bucket of an element ---- */

INLINE int32_t bits_of_single(float value)
{
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE int64_t bits_of_wide(double value)
{
    int64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Integers that are ordered like the numbers. Compilers vectorise the minima and maxima of integers,
 * but not those of numbers that may be NaN. Applied twice, they return the bits. */
INLINE int32_t ordered_single(int32_t bits) { return bits ^ ((bits >> 31) & INT32_MAX); }
INLINE int64_t ordered_wide(int64_t bits) { return bits ^ ((bits >> 63) & INT64_MAX); }

/* The bucket of a float32 with these bits. Buckets are counted from that of zero to both sides. */
INLINE int32_t bucket_of(int32_t bits)
{
    const int32_t sign = bits >> 31, magnitude = bits & INT32_MAX;
    int32_t inner = (magnitude >> KEY_SHIFT) - FIRST_KEY + 1;
    inner = inner < 0 ? 0 : inner;
    inner = inner > PER_SIGN - 1 ? PER_SIGN - 1 : inner;
    inner += magnitude != 0;
    return ZERO_BUCKET + ((inner ^ sign) - sign);
}

/* Rounds to float32 for the bucket alone: finite numbers stay finite, and only zero becomes zero. */
INLINE float narrowed(double value)
{
    const double magnitude = fabs(value);
    double clipped = magnitude > FLT_MAX ? (double)FLT_MAX : magnitude;
    clipped = clipped < FLT_MIN ? (double)FLT_MIN : clipped;
    clipped = magnitude == 0 ? 0 : clipped;
    return (float)copysign(clipped, value);
}

/* ---- One block ---- */

/* Adds numbers and squares in vectors of which none waits for another. Four elements are converted
 * by one instruction; gcc makes four of __builtin_convertvector. The elements after the last whole
 * group are followed by zeros. */
#define ADD(TYPE, values, n, found)                                                               \
    do {                                                                                          \
        Doubles sums[VECTORS] = {{0}}, squares[VECTORS] = {{0}};                                  \
        TYPE padded[4 * VECTORS] = {0};                                                           \
        const int whole = (n) / (4 * VECTORS) * (4 * VECTORS);                                    \
        memcpy(padded, (values) + whole, (size_t)((n) - whole) * sizeof(TYPE));                   \
        for (int begin = 0; begin <= whole; begin += 4 * VECTORS) {                               \
            const TYPE *group = begin < whole ? (values) + begin : padded;                        \
            for (int at = 0; at < VECTORS; at++) {                                                \
                const TYPE *four = group + 4 * at;                                                \
                const Doubles wide = {four[0], four[1], four[2], four[3]};                        \
                sums[at] += wide;                                                                 \
                squares[at] += wide * wide;                                                       \
            }                                                                                     \
        }                                                                                         \
        for (int at = 1; at < VECTORS; at++) {                                                    \
            sums[0] += sums[at];                                                                  \
            squares[0] += squares[at];                                                            \
        }                                                                                         \
        (found)->sum = (sums[0][0] + sums[0][1]) + (sums[0][2] + sums[0][3]);                     \
        (found)->squares =                                                                        \
            (squares[0][0] + squares[0][1]) + (squares[0][2] + squares[0][3]);                    \
    } while (0)

/* Moves the finite values to the front of `kept`, which may be `values`. */
#define KEEP_FINITE(values, n, kept, number)                                                      \
    do {                                                                                          \
        (number) = 0;                                                                             \
        for (int i = 0; i < (n); i++)                                                             \
            if (isfinite((values)[i]))                                                            \
                (kept)[(number)++] = (values)[i];                                                 \
    } while (0)

INLINE void scan_singles(const float *values, int n, int32_t *restrict index, Sums *found)
{
    int32_t lowest = INT32_MAX, highest = INT32_MIN;
    for (int i = 0; i < n; i++) {
        const int32_t bits = bits_of_single(values[i]), ordered = ordered_single(bits);
        lowest = ordered < lowest ? ordered : lowest;
        highest = ordered > highest ? ordered : highest;
        index[i] = bucket_of(bits);
    }
    lowest = ordered_single(lowest);
    highest = ordered_single(highest);
    float minimum, maximum;
    memcpy(&minimum, &lowest, sizeof minimum);
    memcpy(&maximum, &highest, sizeof maximum);
    found->minimum = minimum;
    found->maximum = maximum;
    ADD(float, values, n, found);
}

INLINE void scan_wide(
    const double *values, int n, float *restrict single, int32_t *restrict index, Sums *found)
{
    int64_t lowest = INT64_MAX, highest = INT64_MIN;
    for (int i = 0; i < n; i++)
        single[i] = narrowed(values[i]);
    for (int i = 0; i < n; i++)
        index[i] = bucket_of(bits_of_single(single[i]));
    for (int i = 0; i < n; i++) {
        const int64_t ordered = ordered_wide(bits_of_wide(values[i]));
        lowest = ordered < lowest ? ordered : lowest;
        highest = ordered > highest ? ordered : highest;
    }
    lowest = ordered_wide(lowest);
    highest = ordered_wide(highest);
    memcpy(&found->minimum, &lowest, sizeof lowest);
    memcpy(&found->maximum, &highest, sizeof highest);
    ADD(double, values, n, found);
}

/* Puts the buckets of the finite elements of a block into `buffers->index`, and finds their sums and
 * extremes. Returns how many are finite. If none is, the extremes are undefined. */
INLINE int scan_block(
    Buffers *buffers, const char *elements, int dtype, int n, const double *loss_scale, Sums *found)
{
    const float *single = buffers->single;
    double *wide = buffers->wide;
    const int is_wide = dtype == FLOAT64 || loss_scale;
    if (is_wide)
        widen(buffers, elements, dtype, n, loss_scale);
    else
        single = singles(elements, dtype, n, buffers->single);
    for (;;) {
        int kept;
        if (is_wide)
            scan_wide(wide, n, buffers->single, buffers->index, found);
        else
            scan_singles(single, n, buffers->index, found);
        /* An infinity or a NaN makes the sum non-finite. So does an overflow of float64. */
        if (isfinite(found->sum))
            return n;
        if (is_wide) {
            KEEP_FINITE(wide, n, wide, kept);
        } else {
            KEEP_FINITE(single, n, buffers->single, kept);
            single = buffers->single;
        }
        if (kept == n)
            return n;
        n = kept;
    }
}

/* Puts the linear buckets of a block, between two ends, into `buffers->index`. Non-finite elements
 * get the bucket after the last. */
INLINE void place_block(
    Buffers *buffers, const char *elements, int dtype, int n, const double *loss_scale,
    double minimum, double maximum)
{
    /* Halves, because the difference of two float64 may overflow. */
    const double low = minimum / 2, high = maximum / 2;
    double width = high > low ? (high - low) / LINEAR_BUCKETS : 1;
    width = width == 0 ? 1 : width;
    widen(buffers, elements, dtype, n, loss_scale);
    for (int i = 0; i < n; i++) {
        const double value = buffers->wide[i];
        double place = (value / 2 - low) / width;
        place = place > 0 ? place : 0; /* also if it is NaN */
        place = place < LINEAR_BUCKETS - 1 ? place : LINEAR_BUCKETS - 1;
        place = fabs(value) <= DBL_MAX ? place : LINEAR_BUCKETS;
        buffers->index[i] = (int32_t)place;
    }
}

/* The two functions for any processor, and with the instructions of newer ones. The latter do the
 * same operations in the same order with twice as many numbers at a time, so results are equal. */
typedef int ScanBlock(Buffers *, const char *, int, int, const double *, Sums *);
typedef void PlaceBlock(Buffers *, const char *, int, int, const double *, double, double);

#define BLOCK_FUNCTIONS(TARGET, scan_name, place_name)                                            \
    TARGET static int scan_name(                                                                  \
        Buffers *buffers, const char *elements, int dtype, int n, const double *loss_scale,       \
        Sums *found)                                                                              \
    {                                                                                             \
        return scan_block(buffers, elements, dtype, n, loss_scale, found);                        \
    }                                                                                             \
    TARGET static void place_name(                                                                \
        Buffers *buffers, const char *elements, int dtype, int n, const double *loss_scale,       \
        double minimum, double maximum)                                                           \
    {                                                                                             \
        place_block(buffers, elements, dtype, n, loss_scale, minimum, maximum);                   \
    }

BLOCK_FUNCTIONS(, scan_block_baseline, place_block_baseline)
#ifdef __x86_64__
BLOCK_FUNCTIONS(__attribute__((target("avx2"))), scan_block_avx2, place_block_avx2)
#endif

static void choose_instructions(ScanBlock **scan, PlaceBlock **place)
{
    *scan = scan_block_baseline;
    *place = place_block_baseline;
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) {
        *scan = scan_block_avx2;
        *place = place_block_avx2;
    }
#endif
}

#endif
