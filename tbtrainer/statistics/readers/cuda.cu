// The pass and the linear pass in CUDA C++, for tensors of one dtype. One launch reads all of them.
//
// Each block reads one chunk of one tensor: it counts in shared memory, and adds its counts to the
// row of the tensor at its end. docs/kernel.md explains the kernels step by step. `cuda.py` has this
// file compiled at run time by NVRTC, without any header, and defines the constants in upper case
// that have no definition here. The tests compile the same file for the CPU.

typedef unsigned int Word;
typedef unsigned long long Address;

// A key is the sign, the exponent and the leading bits of the fraction of a float32: the upper bits
// of the float32. Every key has a counter. A chunk has fewer than 2**32 elements, so that no counter
// overflows.
const int KEY_BITS = 1 + 8 + MANTISSA_BITS;
const int KEY_SHIFT = 32 - KEY_BITS;
const int KEYS = 1 << KEY_BITS;
const int NEGATIVE = KEYS / 2;
// The keys of each sign whose exponent is that of infinities and NaN.
const int NONFINITE_KEYS = 1 << MANTISSA_BITS;
const int FIRST_NONFINITE = NEGATIVE - NONFINITE_KEYS;

// NVRTC defines no `INFINITY`.
#define INFINITE __longlong_as_double(0x7ff0000000000000LL)

const int WARPS = THREADS / 32;
const Word ALL_LANES = 0xffffffff;
// Bytes that a thread loads at a time.
const int LOAD_BYTES = 16;

// The sums of squares between which sums in float32 are accurate: below, squares may have vanished,
// above, they may have overflowed. 2**-100 is 2**34 times what 2**16 squares can lose together.
const double LEAST_SQUARES = 7.888609052210118e-31;
const double MOST_SQUARES = 1e38;

// One row of the table of chunks.
struct Chunk {
    Address source;
    long long size;
    long long row;
};

// What was found in some elements.
struct Found {
    double sum, squares, minimum, maximum;
    Word zeros, nonfinite;
};

// The dtypes, of which `DTYPE` is one. `Value` is the type that a dtype is computed in. A thread has
// `LOADS` loads in flight, and a multiprocessor at least `BLOCKS` blocks, which bounds the registers
// of a thread. `packed` returns one of the elements in 16 bytes, and `single` the one at an address.

struct Float32 {
    typedef float Value;
    static const int BYTES = 4, LOADS = 4, BLOCKS = 3;
    static __device__ float packed(const Word (&words)[4], int at) {
        return __uint_as_float(words[at]);
    }
    static __device__ float single(Address source) { return __ldg((const float *)source); }
};

struct BFloat16 {
    typedef float Value;
    static const int BYTES = 2, LOADS = 2, BLOCKS = 3;
    // A bfloat16 is the upper half of a float32.
    static __device__ float packed(const Word (&words)[4], int at) {
        Word word = words[at / 2];
        return __uint_as_float(at % 2 ? word & 0xffff0000 : word << 16);
    }
    static __device__ float single(Address source) {
        return __uint_as_float((Word)__ldg((const unsigned short *)source) << 16);
    }
};

#ifdef __CUDACC__
// NVRTC ships no cuda_fp16.h.
static __device__ float float_of_half(unsigned short half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}
#endif

struct Float16 {
    typedef float Value;
    static const int BYTES = 2, LOADS = 2, BLOCKS = 3;
    static __device__ float packed(const Word (&words)[4], int at) {
        return float_of_half((unsigned short)(words[at / 2] >> (at % 2 * 16)));
    }
    static __device__ float single(Address source) {
        return float_of_half(__ldg((const unsigned short *)source));
    }
};

struct Float64 {
    typedef double Value;
    static const int BYTES = 8, LOADS = 4, BLOCKS = 2;
    static __device__ double packed(const Word (&words)[4], int at) {
        return __hiloint2double((int)words[2 * at + 1], (int)words[2 * at]);
    }
    static __device__ double single(Address source) { return __ldg((const double *)source); }
};

// A sum in float32 that also keeps what its additions lost (W. Kahan, 1965).
struct FloatSum {
    float sum, lost;
    __device__ FloatSum() : sum(0), lost(0) {}
    __device__ void add(float value) {
        float corrected = value - lost;
        float next = sum + corrected;
        lost = (next - sum) - corrected;
        sum = next;
    }
    __device__ double value() const { return (double)sum - (double)lost; }
};

struct DoubleSum {
    double sum;
    __device__ DoubleSum() : sum(0) {}
    __device__ void add(double value) { sum += value; }
    __device__ double value() const { return sum; }
};

template <class Value> struct SumOf;
template <> struct SumOf<float> { typedef FloatSum Type; };
template <> struct SumOf<double> { typedef DoubleSum Type; };

static __device__ float fused(float a, float b, float c) { return fmaf(a, b, c); }
static __device__ double fused(double a, double b, double c) { return fma(a, b, c); }
static __device__ float lesser(float a, float b) { return fminf(a, b); }
static __device__ float greater(float a, float b) { return fmaxf(a, b); }
// The second operand may be NaN, which is left out, as `fminf` does.
static __device__ double lesser(double a, double b) { return b < a ? b : a; }
static __device__ double greater(double a, double b) { return b > a ? b : a; }
static __device__ bool is_finite(float value) {
    return (__float_as_uint(value) & 0x7f800000) != 0x7f800000;
}
static __device__ bool is_finite(double value) {
    return ((Word)__double2hiint(value) & 0x7ff00000) != 0x7ff00000;
}
static __device__ Word key_of(float value) { return __float_as_uint(value) >> KEY_SHIFT; }
// Rounded to the nearest float32; a finite value may become infinity.
static __device__ Word key_of(double value) { return key_of(__double2float_rn(value)); }

// Division by the loss scale, correctly rounded. The inverse of a power of two is exact, and the
// product with it is the quotient.
struct Multiplied {
    float inverse;
    __device__ float operator()(float value) const { return value * inverse; }
    __device__ double operator()(double value) const { return value * (double)inverse; }
};

struct Divided {
    float scale;
    __device__ float operator()(float value) const { return __fdiv_rn(value, scale); }
    __device__ double operator()(double value) const { return __ddiv_rn(value, (double)scale); }
};

// Whether `Multiplied` can divide by a scale: by a power of two from 2**-126 to 2**126.
static __device__ bool has_inverse(float scale) {
    Word bits = __float_as_uint(scale);
    return (bits & 0x807fffff) == 0 && bits > 0 && bits <= 253u << 23;
}

// Counts elements, and adds them up. Non-finite elements are counted by their keys, and make the
// sums and the extremes useless: `read_exactly` then finds those.
template <class Dtype> struct Reading {
    typedef typename Dtype::Value Value;
    Word *counters;
    typename SumOf<Value>::Type sum, squares;
    Value minimum, maximum;
    Word zeros;

    __device__ Reading(Word *counters_)
        : counters(counters_), minimum((Value)INFINITE), maximum((Value)-INFINITE), zeros(0) {}

    // The values of a call are added up in a tree: at most eight roundings lie between a value and
    // the sum, so that it is accurate even if all of them go the same way.
    template <int COUNT> __device__ void add(const Value (&values)[COUNT]) {
        const int PARTS = COUNT < 4 ? COUNT : 4;
        Value sums[PARTS], products[PARTS];
#pragma unroll
        for (int at = 0; at < COUNT; ++at) {
            Value value = values[at];
            atomicAdd(&counters[key_of(value)], 1u);
            zeros += value == 0;
            minimum = lesser(minimum, value);
            maximum = greater(maximum, value);
            if (at < PARTS) {
                sums[at] = value;
                products[at] = value * value;
            } else {
                sums[at % PARTS] += value;
                products[at % PARTS] = fused(value, value, products[at % PARTS]);
            }
        }
#pragma unroll
        for (int width = PARTS / 2; width > 0; width /= 2)
            for (int at = 0; at < width; ++at) {
                sums[at] += sums[at + width];
                products[at] += products[at + width];
            }
        sum.add(sums[0]);
        squares.add(products[0]);
    }

    template <int LOADS, class Quotient>
    __device__ void add_loads(const uint4 *loads, const Quotient &quotient) {
        const int EACH = LOAD_BYTES / Dtype::BYTES;
        uint4 loaded[LOADS];
        Value values[LOADS * EACH];
#pragma unroll
        for (int load = 0; load < LOADS; ++load) loaded[load] = __ldg(loads + load * THREADS);
#pragma unroll
        for (int load = 0; load < LOADS; ++load) {
            Word words[4] = {loaded[load].x, loaded[load].y, loaded[load].z, loaded[load].w};
#pragma unroll
            for (int at = 0; at < EACH; ++at)
                values[load * EACH + at] = quotient(Dtype::packed(words, at));
        }
        add<LOADS * EACH>(values);
    }

    template <class Quotient> __device__ void add_single(Address source, const Quotient &quotient) {
        Value values[1] = {quotient(Dtype::single(source))};
        add<1>(values);
    }

    __device__ Found found() const {
        Found found = {sum.value(), squares.value(), minimum, maximum, zeros, 0};
        return found;
    }
};

// Reads a chunk, `LOADS` loads at a time.
template <class Dtype, int LOADS, class Quotient>
__device__ Found read(const Chunk &chunk, Word *counters, const Quotient &quotient) {
    const int EACH = LOAD_BYTES / Dtype::BYTES;
    Reading<Dtype> reading(counters);
    int thread = threadIdx.x, size = (int)chunk.size;
    // The elements before the first address that is a multiple of 16, and those after the last.
    int head = (int)(-chunk.source % LOAD_BYTES) / Dtype::BYTES;
    head = head < size ? head : size;
    int count = (size - head) / EACH, tail = size - head - count * EACH;
    Address body = chunk.source + head * Dtype::BYTES, end = body + count * LOAD_BYTES;
    if (thread < head) reading.add_single(chunk.source + thread * Dtype::BYTES, quotient);
    if (thread < tail) reading.add_single(end + thread * Dtype::BYTES, quotient);
    const uint4 *loads = (const uint4 *)body;
    int at = thread;
    for (; at + (LOADS - 1) * THREADS < count; at += LOADS * THREADS)
        reading.template add_loads<LOADS>(loads + at, quotient);
#pragma unroll 1
    for (; at < count; at += THREADS) reading.template add_loads<1>(loads + at, quotient);
    return reading.found();
}

// Reads a chunk again, in float64 and without its non-finite elements. Also counts the elements
// whose keys say too little: those next to zero, whose key is that of zeros, and those that are
// finite in float64 only. Their counters have to be zero.
template <class Dtype>
__device__ Found read_exactly(const Chunk &chunk, Word *counters, const Divided &quotient) {
    Found found = {0, 0, INFINITE, -INFINITE, 0, 0};
#pragma unroll 1
    for (int at = threadIdx.x; at < (int)chunk.size; at += THREADS) {
        typename Dtype::Value element = quotient(Dtype::single(chunk.source + at * Dtype::BYTES));
        if (!is_finite(element)) {
            ++found.nonfinite;
            continue;
        }
        double value = element;
        found.sum += value;
        found.squares += value * value;
        found.minimum = lesser(found.minimum, value);
        found.maximum = greater(found.maximum, value);
        Word key = key_of(element);
        if (value == 0)
            ++found.zeros;
        else if (key % NEGATIVE == 0 || key % NEGATIVE >= FIRST_NONFINITE)
            atomicAdd(&counters[key], 1u);
    }
    return found;
}

// Addition in both orders has the same result, which `of_lanes` needs.
static __device__ void combine(Found &found, const Found &other) {
    found.sum += other.sum;
    found.squares += other.squares;
    found.minimum = lesser(found.minimum, other.minimum);
    found.maximum = greater(found.maximum, other.maximum);
    found.zeros += other.zeros;
    found.nonfinite += other.nonfinite;
}

// Returns what each group of neighbouring lanes of a warp found together, to each of its lanes. All
// of them add in the same order, and so get the same sums. `lanes` is a power of two.
static __device__ Found of_lanes(Found found, int lanes) {
#pragma unroll 1
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
        Found other = {
            __shfl_xor_sync(ALL_LANES, found.sum, distance),
            __shfl_xor_sync(ALL_LANES, found.squares, distance),
            __shfl_xor_sync(ALL_LANES, found.minimum, distance),
            __shfl_xor_sync(ALL_LANES, found.maximum, distance),
            __shfl_xor_sync(ALL_LANES, found.zeros, distance),
            __shfl_xor_sync(ALL_LANES, found.nonfinite, distance),
        };
        combine(found, other);
    }
    return found;
}

// Returns what the threads of a block found together, to each of them.
static __device__ __noinline__ Found of_block(const Found &mine) {
    __shared__ Found warps[WARPS];
    Found found = of_lanes(mine, 32);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = found;
    __syncthreads();
    found = of_lanes(warps[threadIdx.x % WARPS], WARPS);
    // `warps` may be written again.
    __syncthreads();
    return found;
}

static __device__ Word &nonfinite_counter(Word *counters, int number) {
    return counters[FIRST_NONFINITE + number % NONFINITE_KEYS + number / NONFINITE_KEYS * NEGATIVE];
}

// The bucket of a key. Keys beyond the range of the buckets belong to the outermost ones.
static __device__ int bucket_of(int key) {
    const int LEAST = (MIN_EXPONENT + 127) << MANTISSA_BITS;
    int within = key % NEGATIVE - LEAST + 1;
    within = within < 0 ? 0 : within < ZERO_BUCKET ? within : ZERO_BUCKET - 1;
    return key < NEGATIVE ? ZERO_BUCKET + 1 + within : ZERO_BUCKET - 1 - within;
}

template <class Dtype>
__device__ Found measure_chunk(const Chunk &chunk, Word *counters, float scale) {
    Divided divided = {scale};
    Found mine;
    if (has_inverse(scale)) {
        Multiplied multiplied = {1.0f / scale};
        mine = read<Dtype, Dtype::LOADS>(chunk, counters, multiplied);
    } else {
        mine = read<Dtype, 1>(chunk, counters, divided);
    }
    __syncthreads();
    if (threadIdx.x < 2 * NONFINITE_KEYS)
        mine.nonfinite = nonfinite_counter(counters, threadIdx.x);
    Found found = of_block(mine);
    bool has_tiny = counters[0] + counters[NEGATIVE] != found.zeros;
    // Also false if the sum of squares is NaN. Sums in float64 need no second reading.
    bool is_accurate = sizeof(typename Dtype::Value) == sizeof(double) || found.zeros == chunk.size ||
                       (found.squares >= LEAST_SQUARES && found.squares <= MOST_SQUARES);
    __syncthreads();
    // From here on these are the counters of `read_exactly`. The zeros are in `found`.
    if (threadIdx.x < 2 * NONFINITE_KEYS) nonfinite_counter(counters, threadIdx.x) = 0;
    if (threadIdx.x == 0) counters[0] = counters[NEGATIVE] = 0;
    __syncthreads();
    // All threads of the block decide alike.
    if (found.nonfinite || has_tiny || !is_accurate)
        found = of_block(read_exactly<Dtype>(chunk, counters, divided));
    return found;
}

// Reads the chunk of this block. Stores sum, sum of squares, minimum and maximum, and the numbers
// of elements, zeros and non-finite elements, by chunk. Adds the other elements to the buckets of the
// row. `loss_scale` may be null.
template <class Dtype>
__device__ void measure_block(const Chunk *chunks, double *sums, long long *counts,
                              unsigned long long *buckets, const float *loss_scale) {
    __shared__ Word counters[KEYS];
    for (int key = threadIdx.x; key < KEYS; key += THREADS) counters[key] = 0;
    __syncthreads();
    Chunk chunk = chunks[blockIdx.x];
    Found found = measure_chunk<Dtype>(chunk, counters, loss_scale ? *loss_scale : 1.0f);
    buckets += chunk.row * BUCKET_COUNT;
    for (int key = threadIdx.x; key < KEYS; key += THREADS)
        if (counters[key])
            atomicAdd(&buckets[bucket_of(key)], (unsigned long long)counters[key]);
    if (threadIdx.x == 0) {
        long long at = blockIdx.x;
        sums[4 * at] = found.sum;
        sums[4 * at + 1] = found.squares;
        sums[4 * at + 2] = found.minimum;
        sums[4 * at + 3] = found.maximum;
        counts[3 * at] = chunk.size;
        counts[3 * at + 1] = found.zeros;
        counts[3 * at + 2] = found.nonfinite;
    }
}

// Counts the chunk of this block in equal buckets, and adds the counts to the row.
template <class Dtype>
__device__ void count_linear_block(const Chunk *chunks, unsigned long long *counts,
                                   const double *low, const double *high,
                                   const float *loss_scale) {
    __shared__ Word counters[LINEAR_BUCKET_COUNT];
    for (int place = threadIdx.x; place < LINEAR_BUCKET_COUNT; place += THREADS)
        counters[place] = 0;
    __syncthreads();
    Chunk chunk = chunks[blockIdx.x];
    // Halves are used because the difference of two float64 may overflow.
    double least = low[chunk.row] / 2;
    double width = (high[chunk.row] / 2 - least) / LINEAR_BUCKET_COUNT;
    if (!(width > 0)) width = 1;
    Divided quotient = {loss_scale ? *loss_scale : 1.0f};
#pragma unroll 1
    for (int at = threadIdx.x; at < (int)chunk.size; at += THREADS) {
        typename Dtype::Value value = Dtype::single(chunk.source + at * Dtype::BYTES);
        if (loss_scale) value = quotient(value);
        if (!is_finite(value)) continue;
        double place = ((double)value / 2 - least) / width;
        place = place > 0 ? lesser(LINEAR_BUCKET_COUNT - 1.0, place) : 0;
        atomicAdd(&counters[(int)place], 1u);
    }
    __syncthreads();
    counts += chunk.row * LINEAR_BUCKET_COUNT;
    for (int place = threadIdx.x; place < LINEAR_BUCKET_COUNT; place += THREADS)
        if (counters[place]) atomicAdd(&counts[place], (unsigned long long)counters[place]);
}

extern "C" __global__ void __launch_bounds__(THREADS, DTYPE::BLOCKS)
    measure(const Chunk *chunks, double *sums, long long *counts, unsigned long long *buckets,
            const float *loss_scale) {
    measure_block<DTYPE>(chunks, sums, counts, buckets, loss_scale);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    count_linear(const Chunk *chunks, unsigned long long *counts, const double *low,
                 const double *high, const float *loss_scale) {
    count_linear_block<DTYPE>(chunks, counts, low, high, loss_scale);
}
