"""A language model whose parameters are awkward to shard."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY = 11
WIDTH = 7


class Block(nn.Module):
    """Sizes that no number of ranks divides."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 5)
        self.down = nn.Linear(5, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class OddModel(nn.Module):
    """Odd sizes, a single element, a frozen layer, an unused one, and tied weights by default."""

    def __init__(self, tied: bool = True, frozen: bool = True, blocks: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.scale = nn.Parameter(torch.ones(1))
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.frozen = nn.Linear(WIDTH, WIDTH)
        self.frozen.requires_grad_(not frozen)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, input_ids: Tensor) -> Any:
        x = self.embed(input_ids) * self.scale
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.frozen(x))
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), input_ids[:, 1:].flatten())


def batch(step: int, rank: int) -> Tensor:
    """Token ids, different on every rank and step. int64, shape (3, 6)."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randint(0, VOCABULARY, (3, 6), generator=generator)
