"""Counts the machine instructions that the CUDA kernel takes per element, without a GPU.

Compiles `cuda.cu` with `nvcc` for each architecture and dtype, disassembles it with `cuobjdump`
(that of the CUDA toolkit, or the one in the package triton), and looks at the loops that count in
shared memory. Such a loop has one `ATOMS` per element. Branches that leave the loop are counted as
one instruction each; what they lead to is not.

    python tests/benchmarks/count_sass.py --architectures 80 90
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tbtrainer.statistics.readers.cuda import CONSTANTS, DTYPES, SOURCE

_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,5})\*/\s+([^;]+);")
_BACKWARDS = re.compile(r"BRA\S* (?:\S+, )?0x([0-9a-f]+)")


def disassembler() -> Path:
    """The path of `cuobjdump`.

    Raises:
        SystemExit: There is none.
    """
    found = shutil.which("cuobjdump")
    if found is not None:
        return Path(found)
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        shipped = Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump"
        if shipped.exists():
            return shipped
    raise SystemExit("cuobjdump is neither in PATH nor in the package triton")


def disassembled(dtype: str, architecture: int, directory: Path) -> tuple[str, str]:
    """The machine code of the kernels of a dtype as text, and the registers of `measure`."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise SystemExit("nvcc is not in PATH")
    cubin = str(directory / f"{dtype}-{architecture}.cubin")
    macros = [f"-D{name}={value}" for name, value in {**CONSTANTS, "DTYPE": dtype}.items()]
    target = f"-arch=sm_{architecture}"
    subprocess.run([nvcc, "-w", "-cubin", target, *macros, "-o", cubin, str(SOURCE)], check=True)
    dump = disassembler()
    # It calls `nvdisasm`, which lies beside it.
    environment = {**os.environ, "PATH": f"{dump.parent}{os.pathsep}{os.environ['PATH']}"}
    texts = []
    for option in ("-sass", "-res-usage"):
        done = subprocess.run(
            [str(dump), option, cubin], check=True, capture_output=True, text=True, env=environment
        )
        texts.append(done.stdout)
    usage = re.search(r"Function measure:\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", texts[1])
    return texts[0], " / ".join(usage.groups()) if usage else "?"


def loops(sass: str) -> list[tuple[int, int]]:
    """The instructions and the elements of each loop of `measure` that counts elements."""
    (measure,) = (part for part in sass.split("Function : ") if part.startswith("measure"))
    code = [(int(address, 16), text) for address, text in _INSTRUCTION.findall(measure)]
    found = []
    for end, text in code:
        branch = _BACKWARDS.search(text)
        begin = int(branch.group(1), 16) if branch else end
        if begin < end:
            body = [text for address, text in code if begin <= address <= end]
            elements = sum("ATOMS.POPC.INC" in text for text in body)
            if elements:
                found.append((len(body), elements))
    return found


def main() -> None:
    """Prints a row for each architecture and dtype."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architectures", type=int, nargs="+", default=[80, 90])
    options = parser.parse_args()
    print("Instructions per element in the loops of `measure`, in the order of the code: the main")
    print("loop, its rest, and the main loop for a loss scale that is no power of two.\n")
    print("| architecture | dtype | main | rest | divided | registers / stack / shared bytes |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        for architecture in options.architectures:
            for dtype in DTYPES.values():
                sass, usage = disassembled(dtype, architecture, Path(directory))
                counts = [
                    f"{size} / {elements} = {size / elements:.1f}" for size, elements in loops(sass)
                ][:3]
                print(
                    f"| sm_{architecture} | {dtype} | {' | '.join(counts)} | {usage} |", flush=True
                )


if __name__ == "__main__":
    main()
