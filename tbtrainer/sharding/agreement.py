"""Small collectives in which the ranks agree on what is observed, when a training begins.

No rank may observe something that communicates while another rank does not: it would wait for ever
in the next collective. A rank that fails therefore reports this in the collective instead of
leaving it out. What a rank sends is allocated before its first collective.
"""

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

    With several processes this takes two collectives, whose sizes depend on the number of rows
    alone. With one process it takes none.

    Tensors that every rank claims to hold whole are compared by a checksum of all their bits. If
    the checksums differ, the tensors are parts of larger ones, sharded in an unknown way.

    Args:
        rows: This rank's rows.
        reasons: Why a row cannot be read, or `None`, one per row.
        error: What kept this rank from listing its rows.

    Returns:
        One reason per row, `None` for the rows that are shown. With several processes the rows that
        are shown are the same on every rank.

    Raises:
        Exception: `error`, if there is only one process.
    """
    if not _has_other_ranks():
        if error is not None:
            raise error
        return list(reasons)
    device = collective_device()
    sent = None
    try:
        sent = torch.zeros(3, len(rows), dtype=torch.int64, device=device)
    except Exception as caught:
        error = error or caught
    problem = _problem_of_some_rank(rows, error, device)
    if problem is not None or sent is None:
        if error is not None:
            logger.warning("This rank cannot list its parameters.", exc_info=error)
        return [problem] * len(rows)
    sums, failed = _checksums(rows, reasons)
    refused = [reason is not None or row in failed for row, reason in enumerate(reasons)]
    numbers = torch.tensor([refused, sums, [-s for s in sums]], dtype=torch.int64, device="cpu")
    dist.all_reduce(sent.copy_(numbers), dist.ReduceOp.MAX)
    refusals, greatest, negative_least = sent.tolist()
    return [
        reason
        or ("another rank cannot read them" if refused_anywhere else None)
        or ("the ranks hold different values, sharded in an unknown way" if high != -low else None)
        for reason, refused_anywhere, high, low in zip(
            reasons, refusals, greatest, negative_least, strict=True
        )
    ]


def failed_on_any_rank(names: Sequence[str], failed: Sequence[bool], common: int) -> list[bool]:
    """Finds the items that failed on some rank.

    The first `common` items are the same on every rank, and so are their answers. The items after
    them are agreed on only if their names are the same on every rank. Otherwise each rank gets its
    own `failed` back for these.

    With several processes this takes one collective, and a second one for the items after the first
    `common`. With one process it takes none.

    Args:
        names: One per item.
        failed: Whether an item failed on this rank, one per item.
        common: How many items, from the first on, are the same on every rank.

    Returns:
        Whether each item failed on any rank.
    """
    if not _has_other_ranks():
        return list(failed)
    named = digest(names)
    sent = torch.tensor([named, -named, *failed], dtype=torch.int64, device=collective_device())
    first, second = sent[: 2 + common], sent[2 + common :]
    dist.all_reduce(first, dist.ReduceOp.MAX)
    greatest, negative_least, *agreed = first.tolist()
    # With equal names every rank has as many items, and so as many collectives.
    if greatest == -negative_least and len(second) > 0:
        dist.all_reduce(second, dist.ReduceOp.MAX)
    return [bool(flag) for flag in (*agreed, *second.tolist())]


def numbers_of_rank_zero(numbers: Sequence[int]) -> list[int]:
    """Returns world rank zero's numbers on every rank.

    With several processes this is one collective. With one process it is none.

    Args:
        numbers: This rank's own, as many as on every other rank.
    """
    if not _has_other_ranks():
        return list(numbers)
    sent = torch.tensor(numbers, dtype=torch.int64, device=collective_device())
    dist.broadcast(sent, 0)
    received: list[int] = sent.tolist()
    return received


class Comparison:
    """Finds out whether every rank describes the same, in a collective that comes later.

    Its memory is allocated here, so that a rank without memory is not missing in the collective.

    Args:
        described: Anything with a `repr`.
    """

    def __init__(self, described: object) -> None:
        self._sent: Tensor | None = None
        if _has_other_ranks():
            own = digest(described)
            self._sent = torch.tensor([own, -own], dtype=torch.int64, device=collective_device())

    def is_same(self) -> bool:
        """Returns whether every rank describes the same. Equal on every rank.

        With several processes this is one collective, and the host waits. With one it is none.
        """
        if self._sent is None:
            return True
        dist.all_reduce(self._sent, dist.ReduceOp.MAX)
        greatest, negative_least = self._sent.tolist()
        return bool(greatest == -negative_least)


def same_on_all_ranks(described: object) -> bool:
    """Returns whether every rank describes the same; see `Comparison`. A collective.

    Args:
        described: Anything with a `repr`.
    """
    return Comparison(described).is_same()


def collective_device() -> torch.device:
    """Returns the device of tensors for the default group's collectives: the CPU if possible."""
    # The text is like "cpu:gloo,cuda:nccl".
    types = [pair.split(":")[0] for pair in str(dist.get_backend_config()).split(",")]
    if "cpu" in types:
        return torch.device("cpu")
    return torch.device(types[0], torch.get_device_module(types[0]).current_device())


def _has_other_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def digest(described: object) -> int:
    """Returns 48 bits of a hash of something's `repr`: equal on ranks that describe the same."""
    return int.from_bytes(hashlib.sha256(repr(described).encode()).digest()[:6], "big")


def _problem_of_some_rank(
    rows: Sequence[Row], error: Exception | None, device: torch.device
) -> str | None:
    """Returns why no row can be shown on any rank, or `None`. Equal on every rank."""
    listed = digest([(row.name, row.adapter.mode, row.global_count) for row in rows])
    sent = torch.tensor([error is not None, listed, -listed], dtype=torch.int64, device=device)
    dist.all_reduce(sent, dist.ReduceOp.MAX)
    failed, greatest, negative_least = sent.tolist()
    if failed:
        return "a rank cannot list its parameters"
    if greatest != -negative_least:
        return "the ranks have different parameters, as under pipeline parallelism"
    return None


def _checksums(rows: Sequence[Row], reasons: Sequence[str | None]) -> tuple[list[int], set[int]]:
    """Computes the checksums of the tensors that every rank holds whole.

    It raises nothing, because the other ranks wait in the next collective. The host waits once for
    each device.

    Returns:
        One checksum per row, 0 for a row that is not compared; and the rows whose checksum failed.
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
