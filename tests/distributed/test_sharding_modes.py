"""Statistics of sharded tensors are those of the gathered ones, in every mode."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.distributed.launch import launch, needs_deepspeed
from tests.distributed.lora import with_lora
from tests.distributed.odd_model import OddModel, batch

# Facts that a script reports about each mode. They hold only where the mode is really on.
DDP = {"distributed_type": "MULTI_CPU", "wrapper": "DistributedDataParallel", "mode": "plain"}
FSDP1 = {
    "distributed_type": "FSDP",
    "wrapper": "FullyShardedDataParallel",
    "types": ["Parameter"],
    "mode": "fsdp1",
}
FSDP2 = {"distributed_type": "FSDP", "types": ["DTensor"], "mode": "dtensor"}
ZERO = {"distributed_type": "DEEPSPEED", "wrapper": "DeepSpeedEngine", "processes": 2}
ZERO1 = {**ZERO, "stage": 1, "optimizer": "DeepSpeedZeroOptimizer", "mode": "plain+zero1"}
ZERO2 = {**ZERO, "stage": 2, "optimizer": "DeepSpeedZeroOptimizer", "mode": "plain+zero2"}
# ZeRO-3 leaves no element in the registered parameters.
ZERO3 = {**ZERO, "stage": 3, "local_elements": 0, "mode": "zero3"}

TORCH_MODES: dict[str, dict[str, Any]] = {
    "ddp": DDP,
    "ddp-compiled": DDP,
    "ddp-float16": DDP,
    "fsdp2": {**FSDP2, "empty_shards": 1},
    "fsdp2-bfloat16": FSDP2,
    "fsdp2-lora": FSDP2,
    # After an evaluation FSDP2 names gathered parameters, which are not those it trains.
    "fsdp2-after-evaluation": {**FSDP2, "types": ["DTensor", "Parameter"]},
    "fsdp1": {**FSDP1, "empty_shards": 8},
    "fsdp1-bfloat16": FSDP1,
    "fsdp1-lora": FSDP1,
    "fsdp1-no-shard": {**FSDP1, "empty_shards": 0},
    "fsdp1-flat": FSDP1,
    "tensor-parallel": {"types": ["DTensor", "Parameter"], "mode": "dtensor+plain"},
}
MESH_MODES: dict[str, dict[str, Any]] = {
    "hsdp": {"placements": ["2: Replicate, Shard"], "mode": "dtensor"},
    "hsdp-lora": {"placements": ["2: Replicate, Shard"], "mode": "dtensor"},
    "fsdp2-tensor-parallel": {
        "placements": [
            "1: Shard",
            "2: Shard, Replicate",
            "2: Shard, Shard",
            "2: StridedShard, Shard",
        ],
        "mode": "dtensor",
    },
    "fsdp1-four-ranks": {**FSDP1, "empty_shards": 13},
    "fsdp1-flat-four-ranks": FSDP1,
    "fsdp1-hybrid": {"types": ["Parameter"], "mode": "fsdp1", "empty_shards": 8},
}
ZERO_UP_TO_2_MODES: dict[str, dict[str, Any]] = {
    "zero0": {**ZERO, "stage": 0, "mode": "plain"},
    "zero1": ZERO1,
    "zero1-bfloat16": {**ZERO1, "dtypes": ["bfloat16"]},
    "zero1-bfloat16-float32-sums": {**ZERO1, "optimizer": "BF16_Optimizer"},
    "zero2": ZERO2,
    "zero2-accumulation": ZERO2,
    "zero2-bfloat16": {**ZERO2, "dtypes": ["bfloat16"]},
    "zero2-float16": {**ZERO2, "dtypes": ["float16"], "loss_scale": 100.0},
    "zero2-offload": ZERO2,
    "zero2-lora": ZERO2,
}
# DeepSpeed's own gradients are wrong in this mode, so that only the parameters have a reference.
ROUND_ROBIN_MODES: dict[str, dict[str, Any]] = {"zero2-round-robin": ZERO2}
ZERO3_MODES: dict[str, dict[str, Any]] = {
    "zero3": ZERO3,
    "zero3-partitioned": ZERO3,
    "zero3-accumulation": ZERO3,
    "zero3-bfloat16": {**ZERO3, "dtypes": ["bfloat16"]},
    "zero3-float16": {**ZERO3, "dtypes": ["float16"], "loss_scale": 100.0},
    "zero3-offload": ZERO3,
    "zero3-lora": ZERO3,
}
MODES = {**TORCH_MODES, **MESH_MODES, **ZERO_UP_TO_2_MODES, **ZERO3_MODES}


@dataclass(frozen=True)
class Start:
    """One start of torchrun, which verifies several modes one after another.

    Attributes:
        script: File name in this folder.
        modes: The modes of the script that this start verifies.
        processes: How many processes torchrun starts.
        marks: What every test of these modes is marked with.
    """

    script: str
    modes: tuple[str, ...]
    processes: int = 2
    marks: tuple[pytest.MarkDecorator, ...] = ()


STARTS = {
    "torch": Start("torch_modes.py", tuple(TORCH_MODES)),
    "mesh": Start("mesh_modes.py", tuple(MESH_MODES), processes=4),
    "zero up to 2": Start(
        "deepspeed_modes.py",
        (*ZERO_UP_TO_2_MODES, *ROUND_ROBIN_MODES),
        marks=(needs_deepspeed,),
    ),
    "zero3": Start("deepspeed_modes.py", tuple(ZERO3_MODES), marks=(needs_deepspeed,)),
}


def in_each(modes: Iterable[str]) -> pytest.MarkDecorator:
    """Runs a test in each of these modes; `verdict` is what the mode's script found."""
    wanted = list(modes)
    return pytest.mark.parametrize(
        ("started", "mode"),
        [
            pytest.param(name, mode, id=mode, marks=start.marks)
            for name, start in STARTS.items()
            for mode in start.modes
            if mode in wanted
        ],
        indirect=["started"],
        scope="module",
    )


@pytest.fixture(scope="module")
def started(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The verdicts of one start of torchrun, which runs only the modes that were selected."""
    start = STARTS[request.param]
    tests = (item.callspec.params for item in request.session.items if hasattr(item, "callspec"))
    selected = {test["mode"] for test in tests if test.get("started") == request.param}
    modes = [mode for mode in start.modes if mode in selected]
    return launch(start.script, *modes, processes=start.processes)


@pytest.fixture
def verdict(started: dict[str, Any], mode: str) -> dict[str, Any]:
    """What the script found in one mode."""
    return started[mode]


def norms_of_one_process(model: torch.nn.Module, ranks: int) -> dict[str, float]:
    """Norms of the first gradients, by name, of one process that sees the batches of all ranks."""
    losses = [model(batch(0, rank)) for rank in range(ranks)]
    torch.stack(losses).mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: float(gradient.norm()) for name, gradient in gradients.items()}


def assert_first_norms(verdict: dict[str, Any], expected: dict[str, float], rel: float) -> None:
    """Compares the norms of the first gradients, by name."""
    found = {name: verdict["first_norms"][name] for name in expected}
    assert found == pytest.approx(expected, rel=rel)


@in_each([*MODES, *ROUND_ROBIN_MODES])
def test_the_mode_is_really_on(verdict: dict[str, Any], mode: str) -> None:
    expected = {**MODES, **ROUND_ROBIN_MODES}[mode]
    assert {key: verdict["facts"].get(key) for key in expected} == expected


@in_each(MODES)
def test_counts_and_extremes_are_those_of_gathered_tensors(verdict: dict[str, Any]) -> None:
    assert verdict["differences"] == []


@in_each(MODES)
def test_norms_are_those_of_gathered_tensors(verdict: dict[str, Any]) -> None:
    assert verdict["norm_error"] < 1e-6


@in_each(MODES)
def test_every_step_was_compared(verdict: dict[str, Any]) -> None:
    steps = 3
    shown, trained = len(verdict["names"]), len(verdict["gradients"])
    assert min(shown, trained) > 2
    of_states = verdict["compared_states"]
    assert verdict["compared"] == steps * (2 * shown + trained) + of_states


@in_each(MODES)
def test_every_optimizer_state_was_compared(verdict: dict[str, Any]) -> None:
    steps, states = 3, ["exp_avg", "exp_avg_sq"]
    assert verdict["states"] == states
    assert verdict["compared_states"] == steps * len(states) * len(verdict["gradients"])


@in_each(MODES)
def test_a_planted_nan_and_infinity_are_counted(verdict: dict[str, Any], mode: str) -> None:
    planted = {place.split(":")[0] for place in verdict["planted"]}
    # The bfloat16 optimizer would take the step on one rank and not on the other.
    alone = {"parameters"} if mode == "zero1-bfloat16-float32-sums" else {"parameters", "gradients"}
    assert planted == alone


@in_each(MODES)
def test_no_tensor_is_left_out(verdict: dict[str, Any]) -> None:
    assert verdict["warnings"] == []


@in_each(
    ["ddp", "ddp-compiled", "ddp-float16", "fsdp2", "fsdp1", "zero0", "zero1", "zero2", "zero3"]
)
def test_float32_gradients_are_those_of_one_process(verdict: dict[str, Any]) -> None:
    assert_first_norms(verdict, norms_of_one_process(OddModel(), ranks=2), rel=1e-4)


@in_each(["hsdp", "fsdp1-four-ranks", "fsdp1-hybrid"])
def test_gradients_of_four_ranks_are_those_of_one_process(verdict: dict[str, Any]) -> None:
    assert_first_norms(verdict, norms_of_one_process(OddModel(), ranks=4), rel=1e-4)


@in_each(["fsdp2-lora", "fsdp1-lora", "zero2-lora", "zero3-lora"])
def test_gradients_of_adapters_are_those_of_one_process(verdict: dict[str, Any]) -> None:
    assert_first_norms(verdict, norms_of_one_process(with_lora(OddModel()), ranks=2), rel=1e-4)


@in_each(["zero2-float16", "zero3-float16"])
def test_float16_gradients_are_shown_without_loss_scale(verdict: dict[str, Any]) -> None:
    assert_first_norms(verdict, norms_of_one_process(OddModel(), ranks=2), rel=0.05)


@in_each(["ddp", "fsdp2", "fsdp1", "zero2", "zero3"])
def test_tied_weights_are_shown_once(verdict: dict[str, Any]) -> None:
    assert [name for name in verdict["names"] if name.startswith("head")] == []


@in_each(["ddp-compiled"])
def test_a_compiled_model_has_the_names_of_its_source(verdict: dict[str, Any]) -> None:
    assert verdict["names"] == [name for name, _ in OddModel().named_parameters()]


@in_each(ROUND_ROBIN_MODES)
def test_wrong_gradients_of_deepspeed_are_left_out(verdict: dict[str, Any]) -> None:
    assert verdict["differences"] == []
    assert len(verdict["warnings"]) == 1
    assert "round_robin_gradients" in verdict["warnings"][0]
    assert verdict["states"] == []
