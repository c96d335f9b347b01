"""Builds the compiled libraries where there is a C compiler; all metadata is in setup.cfg."""

from setuptools import Extension, setup

READERS = "tbtrainer/statistics/readers"
# The library is loaded with ctypes, so no header of Python is needed. Without a compiler that
# understands these options, `optional` leaves the library out; NumPy then reads the tensors.
CPU_PASS = Extension(
    "tbtrainer.statistics.readers._cpu_pass",
    sources=[f"{READERS}/cpu_pass.c", f"{READERS}/cpu_squares.c"],
    depends=[f"{READERS}/cpu_blocks.h", f"{READERS}/cpu_elements.h"],
    extra_compile_args=[
        "-std=c11",
        "-O3",
        "-pthread",
        # One rounding per operation, on every processor.
        "-ffp-contract=off",
        # Loops with comparisons are vectorised only if no one reads the exception flags.
        "-fno-trapping-math",
        "-fno-math-errno",
    ],
    extra_link_args=["-pthread"],
    libraries=["m"],
    optional=True,
)

# Likewise; without it, protobuf reads event files.
EVENT_SCAN = Extension(
    "tbtrainer.reading._event_scan",
    sources=["tbtrainer/reading/event_scan.c"],
    extra_compile_args=["-std=c11", "-O3"],
    optional=True,
)

setup(ext_modules=[CPU_PASS, EVENT_SCAN])
