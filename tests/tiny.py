"""A training small enough for tests: a two-layer BERT on sequences whose label can be learnt."""

import math
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, set_seed

VOCABULARY = 64
LENGTH = 12


class Sequences(Dataset):
    """Random tokens; the label says whether token 1 is among them."""

    def __init__(self, rows: int = 64, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(1, VOCABULARY, (rows, LENGTH), generator=generator)
        self.tokens[::2, 3] = 1
        self.labels = (self.tokens == 1).any(dim=1).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "input_ids": self.tokens[index],
            "attention_mask": torch.ones(LENGTH, dtype=torch.long),
            "labels": self.labels[index],
        }


def classifier(
    seed: int = 0, dropout: float = 0.1, layers: int = 2
) -> BertForSequenceClassification:
    """A small BERT. Dropout makes a random number that telemetry draws visible in the weights."""
    set_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=LENGTH,
            num_labels=2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    )


def arguments(cls: type, directory: Path, **changes: Any) -> Any:
    """Training arguments of `cls` with quiet, quick defaults."""
    values: dict[str, Any] = {
        "output_dir": str(directory),
        "max_steps": 10,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 8,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "learning_rate": 1e-3,
        "dataloader_pin_memory": False,
    }
    return cls(**{**values, **changes})


def trainer(cls: type[Trainer], args: Any, **changes: Any) -> Any:
    """A trainer of `cls` for the tiny classifier."""
    values: dict[str, Any] = {
        "model": classifier(),
        "train_dataset": Sequences(64),
        "eval_dataset": Sequences(16, seed=1),
    }
    return cls(args=args, **{**values, **changes})


def equal(left: Any, right: Any) -> bool:
    """Whether two nested states are equal, bit by bit. A NaN is equal to the same NaN."""
    if isinstance(left, torch.Tensor):
        alike = (left.dtype, left.shape) == (right.dtype, right.shape)
        return alike and torch.equal(_bits(left), _bits(right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    return left == right


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
