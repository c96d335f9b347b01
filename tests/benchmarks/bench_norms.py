"""Host time per step of the gradient norms, beside `torch.nn.utils.get_total_norm`.

    PYTHONPATH=. python tests/benchmarks/bench_norms.py [--threads 1] [--repeats 15] [--counts 62]

Every figure is the median of interleaved repeats, in milliseconds per step, from listing the
gradients to their norms by parameter in the window; listing them is also shown by itself. The
gradients are new tensors at each call, as after `zero_grad(set_to_none=True)`. DTensors are
compared with `get_total_norm` of their local parts, which reads as much, and of the DTensors
themselves. With `--busy` the time is that of the thread alone, for a machine with other work.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.nn.utils import get_total_norm

from tbtrainer.sharding import ParameterTable, parameter_table
from tbtrainer.statistics.compiled_norms import loaded_library
from tests.gradients import Norms

SMALL = ((64,), (16, 16), (8,), (32, 8))
LARGE = ((256,), (64, 64), (64, 256), (1000,))
Sizes = tuple[tuple[int, ...], ...]


def model_of(count: int, sizes: Sizes, wrapped: Callable[[Tensor], Tensor]) -> nn.Module:
    """A model of so many parameters, of a few sizes in turn."""
    model = nn.Module()
    for number in range(count):
        whole = torch.randn(sizes[number % len(sizes)])
        model.register_parameter(f"weight_{number}", nn.Parameter(wrapped(whole)))
    return model


def accumulated(table: ParameterTable) -> Callable[[], None]:
    """What a training step costs."""
    norms = Norms(table, "block", 1.0)
    return torch.no_grad()(lambda: norms.accumulate(table.gradients()))


def medians(
    model: nn.Module,
    calls: list[Callable[[], object]],
    repeats: int,
    clock: Callable[[], float],
) -> list[float]:
    """Median milliseconds of each call, without the first repeat."""
    parameters = list(model.parameters())
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, found in zip(calls, seconds, strict=True):
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            began = clock()
            call()
            found.append(clock() - began)
    return [1000 * statistics.median(found[1:]) for found in seconds]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--counts", type=int, nargs="+", default=[62, 300, 1000, 10_000])
    parser.add_argument("--busy", action="store_true")
    options = parser.parse_args()
    clock = time.thread_time if options.busy else time.perf_counter
    torch.set_num_threads(options.threads)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    print("tensors are read by", "PyTorch" if loaded_library() is None else "the compiled library")
    print("sizes  parameters  kind     list   norms  get_total_norm  ratio  of DTensors  ratio")
    for label, sizes in (("small", SMALL), ("large", LARGE)):
        for count in options.counts:
            for kind in ("plain", "dtensor"):
                model = model_of(
                    count,
                    sizes,
                    (lambda whole: DTensor.from_local(whole, mesh, [Shard(0)]))
                    if kind == "dtensor"
                    else (lambda whole: whole),
                )
                table = parameter_table(model, is_world_process_zero=True)
                parameters = list(model.parameters())
                calls: list[Callable[[], object]] = [
                    accumulated(table),
                    torch.no_grad()(
                        lambda p=parameters: get_total_norm(
                            [q.grad if type(q.grad) is Tensor else q.grad.to_local() for q in p]
                        )
                    ),
                ]
                if kind == "dtensor" and count < 10000:
                    calls.append(
                        torch.no_grad()(lambda p=parameters: get_total_norm([q.grad for q in p]))
                    )
                calls.append(table.gradients)
                ours, theirs, *dtensors, listing = medians(model, calls, options.repeats, clock)
                rest = "".join(f"  {d:11.2f}  {ours / d:5.2f}" for d in dtensors)
                print(
                    f"{label:5}  {count:10}  {kind:7}  {listing:5.2f}  {ours:6.2f}  "
                    f"{theirs:14.2f}  {ours / theirs:5.2f}{rest}",
                    flush=True,
                )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
