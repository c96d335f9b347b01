/* Sums of squares of many tensors in main memory, computed in float64 in one call.
 *
 * `compiled_norms.py` calls `tbtrainer_squares` with ctypes. The square of a float32 neither
 * overflows in float64 nor is flushed to zero, so nothing is read twice. A large tensor is cut into
 * fixed chunks, whose sums are added in their order, so the number of threads changes no result.
 */

#include <fenv.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cpu_elements.h"

/* Elements of a chunk, which one thread reads. */
#define CHUNK 65536
/* Elements that are worth starting a thread for. */
#define ELEMENTS_PER_THREAD ((int64_t)1 << 20)

/* Elements per iteration. */
#define GROUP 16
/* No system maps memory below this address. The address of released memory is 0 plus an offset. */
#define LOWEST_ADDRESS 65536
/* Distance in bytes between what is read and what is fetched into the cache. */
#define AHEAD 2048

typedef float Floats __attribute__((vector_size(16)));
typedef uint32_t Words __attribute__((vector_size(16)));

/* What has the same value at every step. `sizes` and `dtypes` have `number` entries. */
typedef struct {
    const int64_t *sizes, *dtypes;
    int64_t number;
} Plan;

typedef double SquaresOfChunk(const char *, int, int64_t);

/* What the threads of one call share. `first_chunk[t]` is the number of the first chunk of tensor
 * t. */
typedef struct {
    const Plan *plan;
    const char *const *elements;
    const int64_t *first_chunk;
    int64_t chunks;
    double *chunk_squares;
    SquaresOfChunk *squares_of_chunk;
    _Atomic int64_t next_chunk;
} Pass;

/* ---- One chunk ---- */

/* The bits of four float32, equal to float16 numbers without their signs. */
INLINE Words magnitudes_of_half(Words halves)
{
    /* The exponents differ by 112. The product is exact, and it normalises subnormal numbers. */
    const Words magnitudes = (halves & 0x7fff) << 13;
    const Words are_not_finite = (Words)(magnitudes >= 0x7c00 << 13);
    return (Words)((Floats)magnitudes * 0x1p112f) | (are_not_finite & 0x7f800000);
}

/* Adds the squares of eight elements of any alignment to two vectors, in any order. */
INLINE void add_eight(const char *elements, int dtype, Doubles *squares)
{
    Doubles wide[2];
    Floats single[2];
    Words pairs;
    if (dtype == FLOAT64) {
        memcpy(&wide[0], elements, sizeof wide[0]);
        memcpy(&wide[1], elements + sizeof wide[0], sizeof wide[1]);
    } else if (dtype == FLOAT32) {
        memcpy(&single[0], elements, sizeof single[0]);
        memcpy(&single[1], elements + sizeof single[0], sizeof single[1]);
    } else {
        memcpy(&pairs, elements, sizeof pairs);
        const int is_half = dtype == FLOAT16;
        single[0] = (Floats)(is_half ? magnitudes_of_half(pairs) : pairs << 16);
        single[1] = (Floats)(is_half ? magnitudes_of_half(pairs >> 16) : pairs & 0xffff0000);
    }
    for (int at = 0; at < 2; at++) {
        /* gcc makes two instructions of `__builtin_convertvector`, and one of this. */
        if (dtype != FLOAT64)
            wide[at] = (Doubles){single[at][0], single[at][1], single[at][2], single[at][3]};
        squares[at] += wide[at] * wide[at];
    }
}

INLINE double add_squares(const char *elements, int dtype, int64_t size)
{
    const int bytes = BYTES[dtype];
    const int64_t whole = size / GROUP * GROUP;
    /* None of the vectors waits for another. */
    Doubles squares[GROUP / 4] = {{0}};
    char rest[GROUP * sizeof(double)] = {0};
    for (int64_t begin = 0; begin < whole; begin += GROUP) {
        /* Processors do not read ahead over the end of a page. A prefetch may go beyond the end. */
        __builtin_prefetch((const void *)((uintptr_t)elements + begin * bytes + AHEAD));
        for (int at = 0; at < GROUP; at += 8)
            add_eight(elements + (begin + at) * bytes, dtype, squares + at / 4);
    }
    memcpy(rest, elements + whole * bytes, (size_t)((size - whole) * bytes));
    for (int at = 0; at < GROUP; at += 8)
        add_eight(rest + at * bytes, dtype, squares + at / 4);
    for (int at = 1; at < GROUP / 4; at++)
        squares[0] += squares[at];
    return (squares[0][0] + squares[0][1]) + (squares[0][2] + squares[0][3]);
}

INLINE double squares_of_chunk(const char *elements, int dtype, int64_t size)
{
    switch (dtype) {
    case FLOAT32:
        return add_squares(elements, FLOAT32, size);
    case BFLOAT16:
        return add_squares(elements, BFLOAT16, size);
    case FLOAT16:
        return add_squares(elements, FLOAT16, size);
    default:
        return add_squares(elements, FLOAT64, size);
    }
}

/* The function for any processor, and with the instructions of newer ones. Both do the same
 * operations in the same order, so their results are equal. */
static double squares_of_chunk_baseline(const char *elements, int dtype, int64_t size)
{
    return squares_of_chunk(elements, dtype, size);
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static double squares_of_chunk_avx2(
    const char *elements, int dtype, int64_t size)
{
    return squares_of_chunk(elements, dtype, size);
}
#endif

static SquaresOfChunk *chosen_function(void)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2"))
        return squares_of_chunk_avx2;
#endif
    return squares_of_chunk_baseline;
}

/* ---- All tensors, in one thread or in several ---- */

static double squares_of_nth_chunk(const Pass *pass, int64_t tensor, int64_t nth)
{
    const int dtype = (int)pass->plan->dtypes[tensor];
    const int64_t begin = nth * CHUNK, left = pass->plan->sizes[tensor] - begin;
    return pass->squares_of_chunk(
        pass->elements[tensor] + begin * BYTES[dtype], dtype, left < CHUNK ? left : CHUNK);
}

static void read_in_one_thread(const Pass *pass, double *squares)
{
    for (int64_t t = 0; t < pass->plan->number; t++) {
        squares[t] = 0;
        for (int64_t nth = 0; nth * CHUNK < pass->plan->sizes[t]; nth++)
            squares[t] += squares_of_nth_chunk(pass, t, nth);
    }
}

static void *work(void *argument)
{
    Pass *pass = argument;
    /* A training may flush subnormal numbers to zero. Here they are read as they are. */
    fenv_t callers;
    feholdexcept(&callers);
    fesetenv(FE_DFL_ENV);
    int64_t t = 0, chunk;
    while ((chunk = atomic_fetch_add(&pass->next_chunk, 1)) < pass->chunks) {
        while (chunk >= pass->first_chunk[t + 1])
            t++;
        pass->chunk_squares[chunk] = squares_of_nth_chunk(pass, t, chunk - pass->first_chunk[t]);
    }
    fesetenv(&callers);
    return NULL;
}

/* Reads in this thread and in as many others as can be had. Returns -1 without memory. */
static int read_in_threads(Pass *pass, int64_t threads, double *squares)
{
    const int64_t number = pass->plan->number;
    int64_t *first_chunk = malloc(((size_t)number + 1) * sizeof *first_chunk);
    pthread_t *others = malloc((size_t)threads * sizeof *others);
    int failed = !first_chunk || !others;
    if (!failed) {
        first_chunk[0] = 0;
        for (int64_t t = 0; t < number; t++)
            first_chunk[t + 1] = first_chunk[t] + (pass->plan->sizes[t] + CHUNK - 1) / CHUNK;
        pass->first_chunk = first_chunk;
        pass->chunks = first_chunk[number];
        pass->chunk_squares = malloc(((size_t)pass->chunks + 1) * sizeof *pass->chunk_squares);
        failed = !pass->chunk_squares;
    }
    if (!failed) {
        int64_t started = 0;
        while (started < threads - 1 && !pthread_create(&others[started], NULL, work, pass))
            started++;
        work(pass);
        while (started-- > 0)
            pthread_join(others[started], NULL);
        for (int64_t t = 0; t < number; t++) {
            squares[t] = 0;
            for (int64_t chunk = first_chunk[t]; chunk < first_chunk[t + 1]; chunk++)
                squares[t] += pass->chunk_squares[chunk];
        }
        free(pass->chunk_squares);
    }
    free(others);
    free(first_chunk);
    return failed ? -1 : 0;
}

/* Puts the sum of the squares of each tensor into `squares`. It is NaN or infinite if an element is.
 * Returns -1 if the memory of a tensor was released; nothing is read then. */
int32_t tbtrainer_squares(
    const Plan *plan, const char *const *elements, double *squares, int64_t most_threads)
{
    Pass pass = {.plan = plan, .elements = elements, .squares_of_chunk = chosen_function()};
    int64_t total = 0;
    for (int64_t t = 0; t < plan->number; t++) {
        if ((uintptr_t)elements[t] < LOWEST_ADDRESS)
            return -1;
        total += plan->sizes[t];
    }
    int64_t threads = total / ELEMENTS_PER_THREAD;
    threads = threads < most_threads ? threads : most_threads;
    if (threads > 1 && read_in_threads(&pass, threads, squares) == 0)
        return 0;
    fenv_t callers;
    feholdexcept(&callers);
    fesetenv(FE_DFL_ENV);
    read_in_one_thread(&pass, squares);
    fesetenv(&callers);
    return 0;
}
