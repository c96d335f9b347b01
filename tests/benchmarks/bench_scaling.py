"""What a snapshot would cost on 8 to 4,096 GPUs: computed, not measured.

Rows, bytes and collectives are those of tbtrainer's own classes for the shapes of three models. The
times follow an alpha-beta model: of NCCL with the constants of its own tuning and bandwidths of a
common cluster, of gloo with constants measured here.

    python tests/benchmarks/bench_scaling.py
"""

import argparse
import math
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tbtrainer import tags
from tbtrainer.observers.row_groups import row_names
from tbtrainer.sharding import AllRanks
from tbtrainer.statistics import BUCKET_COUNT, PreviousExtremes, SnapshotRows
from tbtrainer.statistics.counters import counter_count

GPUS = (8, 64, 512, 4096)
GPUS_PER_NODE = 8
# Snapshots of a run with the default settings, and targets of each.
SNAPSHOTS, TARGETS = 50, 2
# A record of 64 buckets without its tag; see bench_statistics.py.
RECORD_BYTES = 1_099

# Microseconds of a step, for the protocols LL, LL128 and Simple: `baseLat` and `hwLat` of NCCL,
# src/graph/tuning.cc at commit 01afd20.
BASE = {"ring": (3.6, 10.0, 8.4), "tree": (4.4, 4.4, 0.0)}
NVLINK = {"ring": (0.47, 1.9, 3.4), "tree": (0.52, 1.2, 28.0)}
NETWORK = {"ring": (2.7, 4.0, 9.6), "tree": (5.0, 8.5, 50.0)}
# Share of the bandwidth that a protocol reaches, from the same file.
SHARE = {"ring": (1 / 4, 0.92, 1.0), "tree": (0.9 / 3.8, 0.9 * 0.915, 0.9)}
# Assumed bytes per second of one rank: NVLink 4 within a node (450 GB/s each way, 80 % of it), and
# one network card of 400 Gbit/s per GPU between nodes (80 % of 50 GB/s, eight in parallel).
NVLINK_BYTES, NODE_BYTES = 360e9, 320e9

Shapes = Iterator[tuple[str, int]]


def llama(layers: int, hidden: int, inner: int, keys: int, vocabulary: int, tied: bool) -> Shapes:
    """Names and sizes of the parameters of a Llama."""
    yield "model.embed_tokens.weight", vocabulary * hidden
    for layer in range(layers):
        place = f"model.layers.{layer}"
        for name, size in (("q", hidden), ("k", keys), ("v", keys), ("o", hidden)):
            yield f"{place}.self_attn.{name}_proj.weight", hidden * size
        for name in ("gate", "up", "down"):
            yield f"{place}.mlp.{name}_proj.weight", hidden * inner
        for name in ("input", "post_attention"):
            yield f"{place}.{name}_layernorm.weight", hidden
    yield "model.norm.weight", hidden
    if not tied:
        yield "lm_head.weight", vocabulary * hidden


def mixture_of_experts() -> Shapes:
    """Names and sizes of the parameters of a model of the shape of DeepSeek-V3, 671 B."""
    hidden, inner, vocabulary = 7168, 2048, 129_280
    yield "model.embed_tokens.weight", vocabulary * hidden
    for layer in range(61):
        place = f"model.layers.{layer}"
        for name, size in (
            ("q_a_proj", hidden * 1536),
            ("q_a_layernorm", 1536),
            ("q_b_proj", 1536 * 24_576),
            ("kv_a_proj_with_mqa", hidden * 576),
            ("kv_a_layernorm", 512),
            ("kv_b_proj", 512 * 32_768),
            ("o_proj", 16_384 * hidden),
        ):
            yield f"{place}.self_attn.{name}.weight", size
        for name in ("input", "post_attention"):
            yield f"{place}.{name}_layernorm.weight", hidden
        if layer < 3:
            parts, width = [f"{place}.mlp"], 18_432
        else:
            yield f"{place}.mlp.gate.weight", 256 * hidden
            yield f"{place}.mlp.gate.e_score_correction_bias", 256
            experts = [f"{place}.mlp.experts.{number}" for number in range(256)]
            parts, width = [*experts, f"{place}.mlp.shared_experts"], inner
        for part in parts:
            for name in ("gate", "up", "down"):
                yield f"{part}.{name}_proj.weight", hidden * width
    yield "model.norm.weight", hidden
    yield "lm_head.weight", vocabulary * hidden


MODELS: dict[str, Callable[[], Shapes]] = {
    "1 B dense": lambda: llama(16, 2048, 8192, 512, 128_256, tied=True),
    "70 B dense": lambda: llama(80, 8192, 28_672, 1024, 128_256, tied=False),
    "671 B mixture of experts": mixture_of_experts,
}


def nccl(size: int, gpus: int, to_one_rank: bool = False) -> float:
    """Seconds of a sum of `size` bytes, by the fastest of NCCL's algorithms and protocols.

    Args:
        size: Bytes of each rank.
        gpus: Number of ranks.
        to_one_rank: `reduce`, for which NCCL has the ring only, instead of `all_reduce`.
    """
    nodes = max(1, gpus // GPUS_PER_NODE)
    bandwidth = NVLINK_BYTES if nodes == 1 else min(NVLINK_BYTES, NODE_BYTES)
    times = []
    for protocol in range(3):
        for way in ("ring",) if to_one_rank else ("ring", "tree"):
            inside, between = NVLINK[way][protocol], NETWORK[way][protocol]
            if way == "tree":
                steps = 2 * (GPUS_PER_NODE - 1) * inside + 2 * math.log2(nodes) * between
            else:
                rounds = 1 if to_one_rank else 2
                steps = rounds * ((gpus - nodes) * inside + (nodes - 1) * between)
            sent = size if to_one_rank else 2 * size
            moved = sent / (bandwidth * SHARE[way][protocol])
            times.append((BASE[way][protocol] + steps) * 1e-6 + moved)
    return min(times)


def measured_gloo(rank: int, port: int, found: Any) -> None:
    """One of two processes: measures sums over gloo, and fits seconds and seconds per byte."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    medians = {}
    for count in (2, 2**21):
        numbers, taken = torch.zeros(count, dtype=torch.int32), []
        for _ in range(41):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(numbers)
            taken.append(time.perf_counter() - began)
        medians[4 * count] = statistics.median(taken[1:])
    if rank == 0:
        (small, least), (large, most) = medians.items()
        per_byte = (most - least) / (large - small)
        # Two ranks take two steps, in which each sends half of the bytes.
        found.put(((least - small * per_byte) / 2, per_byte))
    dist.barrier()
    dist.destroy_process_group()


def gloo_constants() -> tuple[float, float]:
    """Returns seconds of a step and seconds per byte, of gloo between two processes here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = mp.get_context("spawn").SimpleQueue()
    mp.spawn(measured_gloo, (port, found), nprocs=2)
    step, per_byte = found.get()
    return step, per_byte


class Cost:
    """What a snapshot of one model costs, with one `histogram_detail`.

    Args:
        names: Names of the parameters.
        sizes: Their elements.
        detail: `histogram_detail`.
    """

    def __init__(self, names: list[str], sizes: list[int], detail: str) -> None:
        self.rows = SnapshotRows.of(row_names(names, sizes, detail), sizes, torch.device("cpu"))
        count = len(self.rows.names)
        reduction, previous = AllRanks(self.rows), PreviousExtremes(self.rows)
        self.width = reduction.counts_dtype.itemsize
        tensors = (value for value in vars(reduction).values() if isinstance(value, torch.Tensor))
        self.held = sum(tensor.nbytes for tensor in tensors)
        self.on_host = TARGETS * sum(
            value.nbytes for value in vars(previous).values() if isinstance(value, torch.Tensor)
        )
        counters = counter_count(self.rows) * self.width
        # int64 counters of a part of the rows, and their copy in int32; see `measure_into`.
        part = max(64, -(-count // 32)) if self.width == 4 else 0
        self.during = self.held + counters + 56 * count + min(part, count) * BUCKET_COUNT * 12
        piece = max(2**20 * self.width // 4, -(-counters // 16))
        pieces = [min(piece, counters - begin) for begin in range(0, counters, piece)]
        self.collectives = [16 * count, 40 * count + 8, *pieces]
        tag_bytes = sum(len(tags.GRADIENTS.of(name)) for name in self.rows.names)
        self.events = SNAPSHOTS * TARGETS * (count * RECORD_BYTES + tag_bytes)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.parse_args()
    step, per_byte = gloo_constants()
    costs: dict[tuple[str, str], Cost] = {}
    print("Computed, not measured. kB and MB are powers of ten.\n")
    print(
        "| model | `histogram_detail` | tensors | histograms | counters | held between snapshots "
        "| held during one | per histogram | sent by a rank | collectives | event file |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for model, shapes in MODELS.items():
        names, sizes = (list(values) for values in zip(*shapes(), strict=True))
        for detail in ("block", "parameter"):
            cost = costs[model, detail] = Cost(names, sizes, detail)
            count, sent = len(cost.rows.names), sum(cost.collectives)
            print(
                f"| {model} | {detail} | {len(names):,} | {count:,} | int{8 * cost.width} "
                f"| {cost.held / 1e6:.1f} MB | {cost.during / 1e6:.1f} MB "
                f"| {cost.during / count / 1e3:.1f} kB | {sent / 1e6:.1f} MB "
                f"| {len(cost.collectives)} | {cost.events / 1e6:,.0f} MB |"
            )
    heads = " | ".join(f"{gpus:,} ranks" for gpus in GPUS)
    print(f"\n| milliseconds of the collectives of one snapshot | {heads} |")
    print("|---|" + "---|" * len(GPUS))
    for (model, detail), cost in costs.items():
        ways: dict[str, Callable[[int, int], float]] = {
            "NCCL": nccl,
            "NCCL, if counters and sums went to one rank": lambda size, ranks: nccl(
                size, ranks, to_one_rank=True
            ),
            "gloo": lambda size, ranks: (
                2 * (ranks - 1) * step + 2 * size * (ranks - 1) / ranks * per_byte
            ),
        }
        for way, seconds in ways.items():
            cells = []
            for gpus in GPUS:
                taken = sum(seconds(size, gpus) for size in cost.collectives)
                cells.append(f"{taken * 1e3:,.1f}")
            print(f"| {model}, {detail}, {way} | {' | '.join(cells)} |")
    print(
        f"\ngloo measured here between two processes: {step * 1e6:.0f} us per step, "
        f"{1 / per_byte / 1e9:.2f} GB/s. The gloo rows extend this to a ring of all ranks."
    )


if __name__ == "__main__":
    main()
