"""The states of the random number generators, which telemetry leaves as they are."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomStates:
    """The states of the random number generators that a forward pass may use.

    Attributes:
        python: Of `random`.
        numpy: Of `numpy.random`.
        torch: Of torch on the CPU.
        cuda: Of the current CUDA device; `None` if CUDA is not in use.
    """

    python: Any
    numpy: Any
    torch: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls) -> "RandomStates":
        """Returns the states, without waiting for a device."""
        return cls(
            random.getstate(),
            np.random.get_state(),
            torch.get_rng_state(),
            torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        )

    def restore(self) -> None:
        """Sets the generators to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)
