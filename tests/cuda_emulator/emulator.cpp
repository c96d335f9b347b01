// Runs the kernels of cuda.cu on the CPU, behind the functions of NVRTC and of the CUDA driver.
//
// The threads of a block are fibers in one thread of the system. A fiber runs until it comes to a
// barrier, and then the next one runs. Blocks with an even number run their threads forwards, the
// others backwards, so that a missing barrier shows. It is an error if the threads wait at different
// barriers, if an address is not aligned, or if it lies outside of the chunk of the block.
//
// Compiled with the macros that cuda.cu needs, and SOURCE, the path of cuda.cu.

#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <ucontext.h>

// What a kernel did wrong, as the driver would say.
static const char *failure = nullptr;

struct Position {
    unsigned x;
};
static Position threadIdx, blockIdx;

// A fiber.
struct Thread {
    ucontext_t begin;
    jmp_buf place;
    std::unique_ptr<char[]> stack;
    // Line of the barrier that it waits at; 0: has not begun; -1: has ended.
    int barrier;
    unsigned shuffles;
};
static Thread threads[THREADS];
static jmp_buf scheduler;

static void wait_at(int line) {
    Thread &thread = threads[threadIdx.x];
    thread.barrier = line;
    if (!_setjmp(thread.place)) _longjmp(scheduler, 1);
}

#define __device__
#define __global__
#define __noinline__
#define __launch_bounds__(...)
// The threads of a block share it, and blocks run one after another.
#define __shared__ static
#define __syncthreads() wait_at(__LINE__)

struct uint4 {
    unsigned x, y, z, w;
};

template <class To, class From> static To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
static float __uint_as_float(unsigned bits) { return bits_as<float>(bits); }
static unsigned __float_as_uint(float value) { return bits_as<unsigned>(value); }
static double __longlong_as_double(long long bits) { return bits_as<double>(bits); }
static int __double2hiint(double value) { return (int)(bits_as<unsigned long long>(value) >> 32); }
static double __hiloint2double(int high, int low) {
    return bits_as<double>((unsigned long long)(unsigned)high << 32 | (unsigned)low);
}
static float __double2float_rn(double value) { return (float)value; }
static float __fdiv_rn(float a, float b) { return a / b; }
static double __ddiv_rn(double a, double b) { return a / b; }

static float float_of_half(unsigned short half) {
    unsigned exponent = half >> 10 & 31, fraction = half & 1023;
    float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                      : exponent     ? std::ldexp(1024.0f + fraction, (int)exponent - 25)
                                     : std::ldexp((float)fraction, -24);
    return half >> 15 ? -magnitude : magnitude;
}

template <class T> static T atomicAdd(T *place, T value) {
    T before = *place;
    *place += value;
    return before;
}

template <class T> static T __shfl_xor_sync(unsigned lanes, T value, int distance) {
    // Two halves, in turns: a thread reads one while another already writes to the next.
    static T passed[2][THREADS];
    if (lanes != 0xffffffff) failure = "some lanes are missing";
    T(&half)[THREADS] = passed[threads[threadIdx.x].shuffles++ % 2];
    half[threadIdx.x] = value;
    wait_at(__LINE__ + 100000);
    return half[threadIdx.x ^ distance];
}

// Bytes that the block may read.
static unsigned long long chunk_begin, chunk_end;

template <class T> static T __ldg(const T *place) {
    unsigned long long address = (unsigned long long)place;
    if (address % sizeof(T)) failure = "misaligned address";
    if (address < chunk_begin || address + sizeof(T) > chunk_end) {
        failure = "an illegal memory access was encountered";
        return T();
    }
    return *place;
}

#include SOURCE

typedef void Kernel(void *, void *, void *, void *, void *);
static Kernel *kernel;
static void *arguments[5];

static void run_thread() {
    kernel(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4]);
    threads[threadIdx.x].barrier = -1;
    _longjmp(scheduler, 1);
}

static void go_on(unsigned number) {
    Thread &thread = threads[number];
    threadIdx.x = number;
    if (_setjmp(scheduler)) return;
    if (thread.barrier) _longjmp(thread.place, 1);
    if (!thread.stack) thread.stack.reset(new char[1 << 16]);
    getcontext(&thread.begin);
    thread.begin.uc_stack.ss_sp = thread.stack.get();
    thread.begin.uc_stack.ss_size = 1 << 16;
    makecontext(&thread.begin, run_thread, 0);
    setcontext(&thread.begin);
}

static void run_block() {
    for (Thread &thread : threads) thread.barrier = thread.shuffles = 0;
    while (!failure && threads[0].barrier != -1) {
        for (unsigned at = 0; at < THREADS; ++at) go_on(blockIdx.x % 2 ? THREADS - 1 - at : at);
        for (Thread &thread : threads)
            if (thread.barrier != threads[0].barrier) failure = "threads wait at different barriers";
    }
}

extern "C" {

int cuModuleLoadData(void **module, const char *image) {
    *module = (void *)1;
    return std::strcmp(image, "emulated") ? 200 : 0;
}

int cuModuleGetFunction(void **function, void *, const char *name) {
    if (!std::strcmp(name, "measure")) *function = (void *)measure;
    else if (!std::strcmp(name, "count_linear")) *function = (void *)count_linear;
    else return 500;
    return 0;
}

// Launches so far, and the stream of the last one.
int launches;
void *last_stream;

int cuLaunchKernel(void *function, unsigned blocks, unsigned, unsigned, unsigned width, unsigned,
                   unsigned, unsigned, void *stream, void **parameters, void **) {
    ++launches;
    last_stream = stream;
    kernel = (Kernel *)function;
    for (int at = 0; at < 5; ++at) arguments[at] = *(void **)parameters[at];
    failure = width == THREADS ? nullptr : "invalid argument";
    const Chunk *chunks = (const Chunk *)arguments[0];
    for (blockIdx.x = 0; blockIdx.x < blocks && !failure; ++blockIdx.x) {
        chunk_begin = chunks[blockIdx.x].source;
        chunk_end = chunk_begin + chunks[blockIdx.x].size * DTYPE::BYTES;
        run_block();
    }
    return failure ? 700 : 0;
}

int cuGetErrorString(int result, const char **text) {
    *text = failure ? failure : result == 500 ? "named symbol not found" : "invalid image";
    return 0;
}

int nvrtcGetNumSupportedArchs(int *count) { *count = 2; return 0; }
int nvrtcGetSupportedArchs(int *known) { known[0] = 80; known[1] = 90; return 0; }
int nvrtcCreateProgram(void **program, const char *, const char *, int, void *, void *) {
    *program = (void *)1;
    return 0;
}
// The options of the last program, one per line.
char options[4096];
int nvrtcCompileProgram(void *, int count, const char **given) {
    options[0] = 0;
    for (int at = 0; at < count; ++at) std::strcat(std::strcat(options, given[at]), "\n");
    return 0;
}
int nvrtcGetCUBINSize(void *, size_t *size) { *size = sizeof "emulated"; return 0; }
int nvrtcGetCUBIN(void *, char *code) { std::strcpy(code, "emulated"); return 0; }
int nvrtcGetPTXSize(void *, size_t *size) { return nvrtcGetCUBINSize(nullptr, size); }
int nvrtcGetPTX(void *, char *code) { return nvrtcGetCUBIN(nullptr, code); }
int nvrtcDestroyProgram(void **) { return 0; }
}
