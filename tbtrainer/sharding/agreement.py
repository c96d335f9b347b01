"""How the ranks agree, once, on the rows of the table."""

import hashlib
import logging
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from tbtrainer.sharding.adapter import Row
from tbtrainer.sharding.checksum import checksum

logger = logging.getLogger(__name__)


def agree_on_rows(
    rows: Sequence[Row], reasons: Sequence[str | None], error: Exception | None
) -> list[str | None]:
    """Finds the rows that every rank can read.

    Two collectives, of a size that depends on the number of rows alone; none for one process.
    Tensors that every rank claims to hold whole are compared by a checksum of all their bits: if
    they differ, they are parts of something, sharded in an unknown way.

    Args:
        rows: This rank's rows.
        reasons: Why a row cannot be read, or `None`, one per row.
        error: What kept this rank from listing its rows.

    Returns:
        One reason per row, `None` for the rows that are shown; they are the same on every rank.

    Raises:
        Exception: `error`, if there is only one process.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        if error is not None:
            raise error
        return list(reasons)
    device = collective_device()
    problem = _disagreement(rows, error, device)
    if problem is not None:
        if error is not None:
            logger.warning("This rank cannot list its parameters.", exc_info=error)
        return [problem] * len(rows)
    sums, failed = _checksums(rows, reasons)
    refused = [reason is not None or row in failed for row, reason in enumerate(reasons)]
    packed = torch.tensor([refused, sums, [-s for s in sums]], dtype=torch.int64, device="cpu")
    packed = packed.to(device)
    dist.all_reduce(packed, dist.ReduceOp.MAX)
    refusals, greatest, negative_least = packed.tolist()
    return [
        reason
        or ("another rank cannot read them" if refused_anywhere else None)
        or ("the ranks hold different values, sharded in an unknown way" if high != -low else None)
        for reason, refused_anywhere, high, low in zip(
            reasons, refusals, greatest, negative_least, strict=True
        )
    ]


def collective_device() -> torch.device:
    """Returns where the default group's collectives take their tensors from."""
    # Such as "cpu:gloo,cuda:nccl".
    types = [pair.split(":")[0] for pair in str(dist.get_backend_config()).split(",")]
    if "cpu" in types:
        return torch.device("cpu")
    return torch.device(types[0], torch.get_device_module(types[0]).current_device())


def _disagreement(rows: Sequence[Row], error: Exception | None, device: torch.device) -> str | None:
    """Returns why no row can be shown, the same on every rank, or `None`."""
    described = repr([(row.name, row.adapter.mode, row.global_count) for row in rows])
    digest = int.from_bytes(hashlib.sha256(described.encode()).digest()[:6], "big")
    mine = torch.tensor([error is not None, digest, -digest], dtype=torch.int64, device=device)
    dist.all_reduce(mine, dist.ReduceOp.MAX)
    failed, greatest, negative_least = mine.tolist()
    if failed:
        return "a rank cannot list its parameters"
    if greatest != -negative_least:
        return "the ranks have different parameters, as under pipeline parallelism"
    return None


def _checksums(rows: Sequence[Row], reasons: Sequence[str | None]) -> tuple[list[int], set[int]]:
    """Checksums of the tensors that every rank holds whole, 0 for others, and the rows that failed.

    Must not fail: the other ranks are on their way to a collective. The host waits once for each
    device.
    """
    by_device: dict[torch.device, dict[int, Tensor]] = {}
    failed: set[int] = set()
    for index, (row, reason) in enumerate(zip(rows, reasons, strict=True)):
        if reason is not None:
            continue
        try:
            whole = row.adapter.whole(row.parameter)
            if whole is not None and whole.device.type != "meta":
                by_device.setdefault(whole.device, {})[index] = checksum(whole)
        except Exception as error:
            failed.add(index)
            logger.debug("%s cannot be compared between ranks: %s", row.name, error)
    sums = [0] * len(rows)
    for found in by_device.values():
        try:
            for index, value in zip(found, torch.stack(list(found.values())).tolist(), strict=True):
                sums[index] = value
        except Exception as error:
            failed.update(found)
            logger.debug("%d tensors cannot be compared between ranks: %s", len(found), error)
    return sums, failed
