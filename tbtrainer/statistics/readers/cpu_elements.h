/* What the loops over elements share; `cpu_blocks.h` and `cpu_squares.c` include it. */

#ifndef TBTRAINER_CPU_ELEMENTS_H
#define TBTRAINER_CPU_ELEMENTS_H

#define INLINE static inline __attribute__((always_inline))

typedef double Doubles __attribute__((vector_size(32)));

/* Numbers of the dtypes, as in `cpu_compiled.py`. */
enum { FLOAT32, BFLOAT16, FLOAT16, FLOAT64 };
static const int BYTES[] = {4, 2, 2, 8};

#endif
