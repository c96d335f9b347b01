"""Counts the tokens and samples of micro-batches, without waiting for the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenCounts:
    """What this rank's model was given.

    Attributes:
        tokens: Elements of `input_ids` without padding; 0 for a model that is given no tokens.
        sequences: Rows of `input_ids`.
        samples: Length of the first dimension of the first tensor of each micro-batch.
    """

    tokens: int
    sequences: int
    samples: int


class TokenCounter:
    """Counts what a rank's model is given.

    Padding is what an `attention_mask` of the shape of `input_ids` leaves out. Without such a mask
    all of them count. Other tokens, such as `decoder_input_ids`, do not count.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._tokens = self._sequences = self._samples = 0
        # Tokens that masks leave in. The sum stays on the masks' device until it is asked for.
        self._unmasked: Tensor | None = None

    def add(self, micro_batches: Sequence[Any]) -> None:
        """Counts micro-batches. Those that are not mappings of tensors are left out."""
        for batch in micro_batches:
            if isinstance(batch, Mapping):
                self._add_batch(batch)

    def take(self) -> TokenCounts:
        """Returns the counts since the last call. Waits for the device if masks are on one."""
        unmasked = 0 if self._unmasked is None else int(self._unmasked.item())
        counts = TokenCounts(self._tokens + unmasked, self._sequences, self._samples)
        self._begin()
        return counts

    def _add_batch(self, batch: Mapping[str, Any]) -> None:
        first = next((v for v in batch.values() if isinstance(v, Tensor) and v.dim() > 0), None)
        self._samples += 0 if first is None else first.size(0)
        ids, mask = batch.get("input_ids"), batch.get("attention_mask")
        if not isinstance(ids, Tensor) or ids.dim() == 0:
            return
        self._sequences += ids.numel() // max(ids.size(-1), 1)
        if not isinstance(mask, Tensor) or mask.shape != ids.shape:
            self._tokens += ids.numel()
            return
        count = mask.sum(dtype=torch.int64)
        # Micro-batches of one rank are all on one device.
        self._unmasked = count if self._unmasked is None else self._unmasked + count
