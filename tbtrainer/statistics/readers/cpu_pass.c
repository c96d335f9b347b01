/* Reads tensors in main memory: the passes of `cpu.py` and `cpu_small.py` as compiled loops.
 *
 * `cpu_compiled.py` loads this library with ctypes, so that it needs no header of Python, works with
 * every version of it, and runs without the GIL. setup.py builds it where there is a C compiler.
 *
 * Elements are read in blocks that fit the first cache. Per block, loops that compilers vectorise
 * compute sums, extremes and the bucket of each element, then a loop over the buckets increments
 * counters. Threads share out fixed chunks of the tensors. Counts do not depend on who reads a
 * chunk, and the sums of the chunks are added in their order, so the number of threads changes no
 * result.
 */

#include <fenv.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "cpu_blocks.h"

/* Elements of a chunk, which one thread reads. */
#define CHUNK 16384
/* Elements that are worth starting a thread for, which takes 40 microseconds. */
#define ELEMENTS_PER_THREAD 131072
/* Counters per bucket. Incrementing one counter twice takes several cycles, two counters do not. */
#define TABLES 4
/* Distance between the tables, chosen so that equal buckets are in different sets of the cache. */
#define TABLE_SIZE 2304
/* Increments per iteration. Fewer are slower: processors predict for each instruction whether its
 * load depends on an earlier store, and one instruction that rarely does is made to wait always. */
#define UNROLLED 16
/* Most elements that are counted before the tables are emptied: a counter holds 32 bits. */
#define MOST_COUNTED ((int64_t)1 << 31)
/* Locks of the rows, which share them. */
#define LOCKS 64

/* `cpu_compiled.py` loads the library only if it has this number. Increase it with each change of
 * the functions' arguments, because an editable installation may keep an old library. */
const int32_t tbtrainer_interface = 3;

typedef struct {
    const char *elements;
    int64_t size;
    int64_t dtype;
    int64_t row;
} Tensor;

/* The arrays of `TensorStatistics`. `buckets` holds int32 or int64. */
typedef struct {
    int64_t *count, *zeros, *nonfinite;
    double *sum, *sum_of_squares, *minimum, *maximum;
    char *buckets;
} Rows;

/* `counts` holds int32 or int64. */
typedef struct {
    char *counts;
    const double *minimum, *maximum;
} LinearRows;

/* What the threads of one call share. `first_chunk[t]` is the number of the first chunk of tensor
 * t. One of `rows` and `linear` is NULL. */
typedef struct {
    const Tensor *tensors;
    const int64_t *first_chunk;
    int64_t chunks;
    const double *loss_scale;
    const Rows *rows;
    const LinearRows *linear;
    int64_t counter_bytes;
    double (*chunk_sums)[2];
    ScanBlock *scan_block;
    PlaceBlock *place_block;
    _Atomic int64_t next_chunk;
    pthread_mutex_t locks[LOCKS];
} Pass;

/* The buffers of one thread, and what it found in one tensor. */
typedef struct {
    Pass *pass;
    pthread_t thread;
    int64_t nonfinite, count;
    double minimum, maximum;
    Buffers buffers;
    uint32_t tables[TABLES][TABLE_SIZE];
} Worker;

/* ---- One chunk ---- */

/* Counts the buckets of a block. Meanwhile the elements after it are fetched into the cache. No
 * fetch of an address fails. */
static void increment(Worker *worker, int n, const char *next, int bytes)
{
    uint32_t(*tables)[TABLE_SIZE] = worker->tables;
    const int32_t *index = worker->buffers.index;
    int at = 0;
    for (; at + UNROLLED <= n; at += UNROLLED) {
        __builtin_prefetch(next + at * bytes);
        for (int i = 0; i < UNROLLED; i++)
            tables[i % TABLES][(uint32_t)index[at + i]]++;
    }
    for (; at < n; at++)
        tables[at % TABLES][(uint32_t)index[at]]++;
}

static void measure_chunk(
    Worker *worker, const char *elements, int dtype, int64_t size, double *sums)
{
    const Pass *pass = worker->pass;
    for (int64_t begin = 0; begin < size; begin += BLOCK) {
        const int n = size - begin < BLOCK ? (int)(size - begin) : BLOCK;
        const char *block = elements + begin * BYTES[dtype];
        Sums found;
        const int finite =
            pass->scan_block(&worker->buffers, block, dtype, n, pass->loss_scale, &found);
        worker->nonfinite += n - finite;
        if (finite == 0)
            continue;
        increment(worker, finite, block + n * BYTES[dtype], BYTES[dtype]);
        sums[0] += found.sum;
        sums[1] += found.squares;
        worker->minimum = found.minimum < worker->minimum ? found.minimum : worker->minimum;
        worker->maximum = found.maximum > worker->maximum ? found.maximum : worker->maximum;
    }
}

static void count_chunk(
    Worker *worker, const char *elements, int dtype, int64_t size, double minimum, double maximum)
{
    const Pass *pass = worker->pass;
    for (int64_t begin = 0; begin < size; begin += BLOCK) {
        const int n = size - begin < BLOCK ? (int)(size - begin) : BLOCK;
        const char *block = elements + begin * BYTES[dtype];
        pass->place_block(
            &worker->buffers, block, dtype, n, pass->loss_scale, minimum, maximum);
        increment(worker, n, block + n * BYTES[dtype], BYTES[dtype]);
    }
}

/* Reads a chunk of a tensor into the worker. Its sums go into an array of the pass. */
static void read_chunk(Worker *worker, const Tensor *tensor, int64_t chunk)
{
    const Pass *pass = worker->pass;
    const int dtype = (int)tensor->dtype;
    const int64_t begin = (chunk - pass->first_chunk[tensor - pass->tensors]) * CHUNK;
    const int64_t size = tensor->size - begin < CHUNK ? tensor->size - begin : CHUNK;
    const char *elements = tensor->elements + begin * BYTES[dtype];
    worker->count += size;
    if (pass->rows)
        measure_chunk(worker, elements, dtype, size, pass->chunk_sums[chunk]);
    else
        count_chunk(
            worker, elements, dtype, size, pass->linear->minimum[tensor->row],
            pass->linear->maximum[tensor->row]);
}

/* ---- One thread ---- */

/* Adds the tables between two buckets to the counters of a row, and sets them to zero. Memory of the
 * row that has nothing to count is left alone: the system provides it when it is first written. */
static void move_counts(Worker *worker, char *counters, int first, int last)
{
    enum { GROUP = 16 };
    const int is_narrow = worker->pass->counter_bytes == sizeof(int32_t);
    int32_t *narrow = (int32_t *)counters;
    int64_t *wide = (int64_t *)counters;
    for (int begin = first; begin <= last; begin += GROUP) {
        const int end = begin + GROUP <= last ? begin + GROUP : last + 1;
        uint32_t sums[GROUP] = {0}, any = 0;
        for (int table = 0; table < TABLES; table++)
            for (int at = begin; at < end; at++) {
                sums[at - begin] += worker->tables[table][at];
                worker->tables[table][at] = 0;
            }
        for (int at = 0; at < GROUP; at++)
            any |= sums[at];
        if (any && is_narrow)
            for (int at = begin; at < end; at++)
                narrow[at] += (int32_t)sums[at - begin];
        else if (any)
            for (int at = begin; at < end; at++)
                wide[at] += sums[at - begin];
    }
}

static void start_tensor(Worker *worker)
{
    worker->count = worker->nonfinite = 0;
    worker->minimum = INFINITY;
    worker->maximum = -INFINITY;
}

/* Adds what was found in a tensor to its row. The lock is needed if another thread reads other
 * chunks of the tensor, or another tensor of the row. */
static void finish_tensor(Worker *worker, int64_t row)
{
    const Rows *rows = worker->pass->rows;
    const int64_t bytes = worker->pass->counter_bytes;
    if (worker->count == 0)
        return;
    pthread_mutex_t *lock = &worker->pass->locks[row % LOCKS];
    pthread_mutex_lock(lock);
    if (rows) {
        const int64_t finite = worker->count - worker->nonfinite;
        rows->count[row] += worker->count;
        rows->nonfinite[row] += worker->nonfinite;
        for (int table = 0; table < TABLES; table++)
            rows->zeros[row] += worker->tables[table][ZERO_BUCKET];
        if (worker->minimum < rows->minimum[row])
            rows->minimum[row] = worker->minimum;
        if (worker->maximum > rows->maximum[row])
            rows->maximum[row] = worker->maximum;
        if (finite)
            move_counts(
                worker, rows->buckets + row * BUCKETS * bytes,
                bucket_of(bits_of_single(narrowed(worker->minimum))),
                bucket_of(bits_of_single(narrowed(worker->maximum))));
    } else {
        for (int table = 0; table < TABLES; table++)
            worker->tables[table][LINEAR_BUCKETS] = 0;
        move_counts(
            worker, worker->pass->linear->counts + row * LINEAR_BUCKETS * bytes, 0,
            LINEAR_BUCKETS - 1);
    }
    pthread_mutex_unlock(lock);
    start_tensor(worker);
}

static void *work(void *argument)
{
    Worker *worker = argument;
    Pass *pass = worker->pass;
    /* A training may flush subnormal numbers to zero. Here they are counted as they are. */
    fenv_t callers;
    feholdexcept(&callers);
    fesetenv(FE_DFL_ENV);
    start_tensor(worker);
    int64_t at = 0, chunk;
    while ((chunk = atomic_fetch_add(&pass->next_chunk, 1)) < pass->chunks) {
        if (chunk >= pass->first_chunk[at + 1] || worker->count > MOST_COUNTED)
            finish_tensor(worker, pass->tensors[at].row);
        while (chunk >= pass->first_chunk[at + 1])
            at++;
        read_chunk(worker, &pass->tensors[at], chunk);
    }
    finish_tensor(worker, pass->tensors[at].row);
    fesetenv(&callers);
    return NULL;
}

/* ---- All tensors ---- */

/* Works in this thread and in as many others as can be had. Returns 0, or -1 without memory. */
static int work_in_threads(Pass *pass, int64_t threads)
{
    Worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!workers && threads > 1)
        workers = calloc((size_t)(threads = 1), sizeof *workers);
    if (!workers)
        return -1;
    int64_t started = 1;
    workers[0].pass = pass;
    for (int at = 0; at < LOCKS; at++)
        pthread_mutex_init(&pass->locks[at], NULL);
    for (; started < threads; started++) {
        workers[started].pass = pass;
        if (pthread_create(&workers[started].thread, NULL, work, &workers[started]))
            break;
    }
    work(&workers[0]);
    while (started-- > 1)
        pthread_join(workers[started].thread, NULL);
    for (int at = 0; at < LOCKS; at++)
        pthread_mutex_destroy(&pass->locks[at]);
    free(workers);
    return 0;
}

static int run(Pass *pass, int64_t number, int64_t most_threads)
{
    int64_t elements = 0, chunks = 0;
    if (number == 0)
        return 0;
    int64_t *first_chunk = malloc(((size_t)number + 1) * sizeof *first_chunk);
    if (!first_chunk)
        return -1;
    for (int64_t t = 0; t < number; t++) {
        first_chunk[t] = chunks;
        chunks += (pass->tensors[t].size + CHUNK - 1) / CHUNK;
        elements += pass->tensors[t].size;
    }
    first_chunk[number] = chunks;
    pass->first_chunk = first_chunk;
    pass->chunks = chunks;
    choose_instructions(&pass->scan_block, &pass->place_block);
    if (pass->rows)
        pass->chunk_sums = calloc((size_t)chunks + 1, sizeof *pass->chunk_sums);
    int64_t threads = elements / ELEMENTS_PER_THREAD;
    threads = threads < most_threads ? threads : most_threads;
    int failed = pass->rows && !pass->chunk_sums;
    failed = failed || work_in_threads(pass, threads < 1 ? 1 : threads);
    if (pass->rows && !failed)
        for (int64_t t = 0; t < number; t++)
            for (int64_t chunk = first_chunk[t]; chunk < first_chunk[t + 1]; chunk++) {
                pass->rows->sum[pass->tensors[t].row] += pass->chunk_sums[chunk][0];
                pass->rows->sum_of_squares[pass->tensors[t].row] += pass->chunk_sums[chunk][1];
            }
    free(pass->chunk_sums);
    free(first_chunk);
    return failed ? -1 : 0;
}

/* Adds the statistics of tensors to rows. The counters of the buckets have `counter_bytes` bytes, 4
 * or 8. `loss_scale` may be NULL. Returns -1 without memory. */
int32_t tbtrainer_measure(
    const Tensor *tensors, int64_t number, const Rows *rows, int64_t counter_bytes,
    const double *loss_scale, int64_t threads)
{
    Pass pass = {
        .tensors = tensors,
        .rows = rows,
        .counter_bytes = counter_bytes,
        .loss_scale = loss_scale,
    };
    return run(&pass, number, threads);
}

/* Adds the elements in equal buckets between the ends of each row. Returns -1 without memory. */
int32_t tbtrainer_linear(
    const Tensor *tensors, int64_t number, const LinearRows *linear, int64_t counter_bytes,
    const double *loss_scale, int64_t threads)
{
    Pass pass = {
        .tensors = tensors,
        .linear = linear,
        .counter_bytes = counter_bytes,
        .loss_scale = loss_scale,
    };
    return run(&pass, number, threads);
}
