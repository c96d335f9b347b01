"""Counts on the device, without waiting for it and the same in every run."""

import torch
from torch import Tensor


def occurrences(numbers: Tensor, counted: Tensor, size: int) -> Tensor:
    """Returns how often each number occurs.

    `torch.bincount` does the same, and waits for a GPU to learn the largest number.

    Args:
        numbers: int64, of any shape. Those that are counted are at least 0 and below `size`.
        counted: Which of them to count, bool, of the same shape.
        size: Number of different numbers.

    Returns:
        int64, shape (size,).
    """
    slots = torch.where(counted, numbers, size).reshape(-1)
    found = torch.zeros(size + 1, dtype=torch.int64, device=numbers.device)
    return found.index_add_(0, slots, torch.ones_like(slots))[:size]


def examples_line(counted: int, seen: int) -> str:
    """Returns how many examples a panel shows.

    Args:
        counted: Those that have a label and a finite prediction.
        seen: All of the evaluation.

    Example:
        >>> examples_line(1234, 1234), examples_line(1200, 1234)
        ('1,234 examples', '1,200 of 1,234 examples')
    """
    if counted == seen:
        return f"{seen:,} example{'' if seen == 1 else 's'}"
    return f"{counted:,} of {seen:,} examples"
