"""Activations are those of the batches of all ranks, each counted once, in every mode."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.launch import launch, needs_deepspeed

# What shows that a mode is on: wrapper, and a type of its parameters.
MODES = {
    "ddp": ("DistributedDataParallel", "Tensor"),
    "fsdp1": ("FullyShardedDataParallel", "Tensor"),
    "fsdp2": ("FSDPBertForSequenceClassification", "DTensor"),
    "zero1": ("DeepSpeedEngine", "Tensor"),
    "zero2": ("DeepSpeedEngine", "Tensor"),
    "zero3": ("DeepSpeedEngine", "Tensor"),
    "tensor": ("LlamaForCausalLM", "DTensor"),
    "different": ("DistributedDataParallel", "Tensor"),
}


@pytest.mark.parametrize(
    "mode",
    [pytest.param(m, marks=needs_deepspeed if m.startswith("zero") else ()) for m in MODES],
)
def test_outputs_of_all_ranks_are_counted_once(mode: str, tmp_path: Path) -> None:
    verdict: dict[str, Any] = launch("output_modes.py", mode, str(tmp_path))
    wrapper, kind = MODES[mode]
    for rank in verdict["ranks"]:
        assert rank["wrapper"] == wrapper
        assert kind in rank["parameters"]
        assert rank["equal"], "the weights differ"
        assert rank["warnings"] == []
    for target, expected in verdict["expected"].items():
        found = verdict["shown"][target]
        assert len(expected) >= 8
        assert found.keys() == expected.keys()
        for key, (count, norm, low, high) in expected.items():
            assert found[key][0] == count, (target, key)
            assert found[key][1:] == pytest.approx([norm, low, high], rel=1e-6), (target, key)
