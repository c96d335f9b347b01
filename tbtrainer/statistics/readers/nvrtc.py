"""Compiles CUDA C++ at run time with NVRTC, and launches it with the CUDA driver."""

import ctypes
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tbtrainer.statistics.readers.chunks import on

# The part of PyTorch that is linked to NVRTC and to the CUDA driver. Loading it finds both wherever
# they are installed, and in the versions that PyTorch itself uses. It is not documented. The CUDA
# builds of torch 2.6, 2.9 and 2.13 have it. Where it is missing, other readers are used.
_LIBRARY = "libcaffe2_nvrtc.so"


@functools.cache
def cuda_library() -> ctypes.CDLL | None:
    """Returns a library with the functions of NVRTC and of the CUDA driver, if there is one.

    There is none with ROCm, in a build of PyTorch for CPUs, and where CUDA is not installed.
    """
    if torch.version.cuda is None:
        return None
    for place in (str(Path(torch.__file__).parent / "lib" / _LIBRARY), _LIBRARY):
        try:
            library = ctypes.CDLL(place)
        except OSError:
            continue
        if hasattr(library, "nvrtcGetSupportedArchs") and hasattr(library, "cuLaunchKernel"):
            return library
    return None


class CompiledKernels:
    """The kernels of one source file, compiled once for each kind of device.

    Args:
        library: What `cuda_library` returned.
        source: CUDA C++ that includes no headers.
        constants: Macros that are defined in it.
    """

    def __init__(
        self, library: ctypes.CDLL, source: str, constants: Mapping[str, int | str]
    ) -> None:
        self._library = library
        self._source = source
        self._options = [f"--define-macro={name}={value}" for name, value in constants.items()]
        self._compiled: dict[int, bytes] = {}
        self._modules: dict[torch.device, ctypes.c_void_p] = {}
        self._functions: dict[tuple[torch.device, str], ctypes.c_void_p] = {}

    def launch(
        self,
        name: str,
        device: torch.device,
        blocks: int,
        threads: int,
        arguments: Sequence[torch.Tensor | None],
    ) -> None:
        """Launches a kernel on the current stream of a device.

        The first launch compiles the kernels, once for each kind of device. That takes about a
        second. Then it loads them, once for each device.

        Args:
            name: Name of the kernel, which is declared `extern "C"`.
            device: Device of the arguments.
            blocks: Number of blocks.
            threads: Number of threads of each block.
            arguments: Tensors whose addresses the kernel takes. `None` is a null pointer.

        Raises:
            RuntimeError: NVRTC or the driver refused. Its message has their text.
        """
        values = [ctypes.c_void_p(0 if a is None else a.data_ptr()) for a in arguments]
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        # The context of the device has to be the current one for the driver, too.
        with on(device):
            stream = torch.cuda.current_stream(device).cuda_stream
            self._driver(
                "cuLaunchKernel",
                self._function(device, name),
                *map(ctypes.c_uint, (blocks, 1, 1, threads, 1, 1, 0)),
                ctypes.c_void_p(stream),
                addresses,
                None,
            )

    def _function(self, device: torch.device, name: str) -> ctypes.c_void_p:
        if (device, name) not in self._functions:
            function = ctypes.c_void_p()
            self._driver(
                "cuModuleGetFunction", ctypes.byref(function), self._module(device), name.encode()
            )
            self._functions[device, name] = function
        return self._functions[device, name]

    def _module(self, device: torch.device) -> ctypes.c_void_p:
        if device not in self._modules:
            major, minor = torch.cuda.get_device_capability(device)
            architecture = 10 * major + minor
            if architecture not in self._compiled:
                self._compiled[architecture] = self.compile(architecture)
            module = ctypes.c_void_p()
            self._driver("cuModuleLoadData", ctypes.byref(module), self._compiled[architecture])
            self._modules[device] = module
        return self._modules[device]

    def compile(self, architecture: int) -> bytes:
        """Returns machine code for an architecture, such as 90.

        For an architecture that this NVRTC does not know, it is the intermediate code (PTX) of the
        newest one before it, which the driver translates.
        """
        known = self._architectures()
        is_known = architecture in known
        if not is_known:
            architecture = max((a for a in known if a < architecture), default=min(known))
        program = ctypes.c_void_p()
        self._nvrtc(
            "CreateProgram",
            ctypes.byref(program),
            self._source.encode(),
            b"tbtrainer_statistics.cu",
            0,
            None,
            None,
        )
        try:
            kind = "sm" if is_known else "compute"
            options = [f"--gpu-architecture={kind}_{architecture}", *self._options]
            encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            result = self._library.nvrtcCompileProgram(program, len(options), encoded)
            if result:
                log = self._output(program, "ProgramLog").decode(errors="replace").rstrip("\0\n")
                raise RuntimeError(f"NVRTC could not compile the kernels: {log}")
            return self._output(program, "CUBIN" if is_known else "PTX")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _architectures(self) -> list[int]:
        count = ctypes.c_int()
        self._nvrtc("GetNumSupportedArchs", ctypes.byref(count))
        architectures = (ctypes.c_int * count.value)()
        self._nvrtc("GetSupportedArchs", architectures)
        return list(architectures)

    def _output(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._nvrtc(f"Get{what}Size", program, ctypes.byref(size))
        output = ctypes.create_string_buffer(size.value)
        self._nvrtc(f"Get{what}", program, output)
        return output.raw

    def _nvrtc(self, function: str, *arguments: Any) -> None:
        result = getattr(self._library, f"nvrtc{function}")(*arguments)
        if result:
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
            text = self._library.nvrtcGetErrorString(result).decode()
            raise RuntimeError(f"nvrtc{function} failed: {text}")

    def _driver(self, function: str, *arguments: Any) -> None:
        result = getattr(self._library, function)(*arguments)
        if result:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(result, ctypes.byref(text))
            raise RuntimeError(f"{function} failed: {(text.value or b'unknown').decode()}")
