"""What a snapshot of a sharded model sends, against the number of ranks and the model's size.

FSDP2 over gloo on this machine. Counted are the collectives of one snapshot and the bytes that each
rank hands to them; a ring moves at most twice as many over each link, whatever the number of ranks.

    python tests/benchmarks/bench_collectives.py
"""

import argparse
import os
import socket
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tbtrainer.sharding import parameter_table
from tests.recorder import Recorder


def snapshot(rank: int, ranks: int, port: int, width: int, layers: int, found: Any) -> None:
    """One rank's part: a snapshot of the parameters, with every collective noted."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers)))
    fully_shard(model, mesh=init_device_mesh("cpu", (ranks,)))
    table = parameter_table(model, is_world_process_zero=rank == 0)
    recorder = Recorder(table, None, torch.device("cpu"))
    sent: list[int] = []

    def noted(original: Any) -> Any:
        def call(tensor: torch.Tensor, *arguments: Any) -> Any:
            sent.append(tensor.numel() * tensor.element_size())
            return original(tensor, *arguments)

        return call

    with (
        mock.patch.object(dist, "all_reduce", noted(dist.all_reduce)),
        mock.patch.object(dist, "reduce", noted(dist.reduce)),
    ):
        recorder.parameters(1)
    if rank == 0:
        found.put((sum(row.global_count for row in table.rows), len(table.rows), sent))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most-ranks", type=int, default=8)
    options = parser.parse_args()
    print(
        "| ranks | elements | tensors | collectives | bytes of each rank |\n|---|---|---|---|---|"
    )
    for width, layers in ((128, 8), (1024, 8), (128, 32)):
        ranks = 2
        while ranks <= options.most_ranks:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            found = mp.get_context("spawn").SimpleQueue()
            mp.spawn(snapshot, (ranks, port, width, layers, found), nprocs=ranks)
            elements, tensors, sent = found.get()
            print(
                f"| {ranks} | {elements:,} | {tensors} | {len(sent)} | {sum(sent):,} |", flush=True
            )
            ranks *= 2


if __name__ == "__main__":
    main()
