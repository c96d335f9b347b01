"""Statistics of sharded tensors are those of the gathered ones, in every mode."""

from typing import Any

import pytest

from tests.distributed.launch import launch

pytest.importorskip("deepspeed")

# What has to be so for the mode to be really on: facts that the script reports of itself.
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
DEEPSPEED_MODES: dict[str, dict[str, Any]] = {
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
    "zero3": ZERO3,
    "zero3-partitioned": ZERO3,
    "zero3-accumulation": ZERO3,
    "zero3-bfloat16": {**ZERO3, "dtypes": ["bfloat16"]},
    "zero3-float16": {**ZERO3, "dtypes": ["float16"], "loss_scale": 100.0},
    "zero3-offload": ZERO3,
    "zero3-lora": ZERO3,
}
MODES = {**TORCH_MODES, **MESH_MODES, **DEEPSPEED_MODES}
# Modes that compute in float32 on the data that DDP sees, and so find its gradients.
LIKE_DDP = ("ddp-compiled", "ddp-float16", "fsdp2", "fsdp1", "zero0", "zero1", "zero2", "zero3")


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Any]:
    """What the scripts found: one start of torchrun for each, with several modes in a row."""
    return {
        **launch("torch_modes.py"),
        **launch("mesh_modes.py", processes=4),
        **launch("deepspeed_modes.py"),
    }


@pytest.fixture(scope="module")
def cases() -> dict[str, Any]:
    """What the ranks did where one of them cannot serve something."""
    return launch("agreement_cases.py")


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_is_really_on(verdicts: dict[str, Any], mode: str) -> None:
    assert {key: verdicts[mode]["facts"].get(key) for key in MODES[mode]} == MODES[mode]


@pytest.mark.parametrize("mode", MODES)
def test_counts_and_extremes_are_those_of_the_gathered_tensors(
    verdicts: dict[str, Any], mode: str
) -> None:
    assert verdicts[mode]["differences"] == []


@pytest.mark.parametrize("mode", MODES)
def test_norms_are_those_of_the_gathered_tensors(verdicts: dict[str, Any], mode: str) -> None:
    assert verdicts[mode]["norm_error"] < 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_parameters_and_gradients_of_every_step_were_compared(
    verdicts: dict[str, Any], mode: str
) -> None:
    steps = 3
    shown, trained = len(verdicts[mode]["names"]), len(verdicts[mode]["gradients"])
    assert min(shown, trained) > 2
    assert verdicts[mode]["compared"] == steps * (shown + trained)


@pytest.mark.parametrize("mode", MODES)
def test_a_nan_and_an_infinity_were_planted_and_found(verdicts: dict[str, Any], mode: str) -> None:
    planted = {place.split(":")[0] for place in verdicts[mode]["planted"]}
    # The bfloat16 optimizer would take the step on one rank and not on the other.
    alone = {"parameters"} if mode == "zero1-bfloat16-float32-sums" else {"parameters", "gradients"}
    assert planted == alone


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_left_out_in_a_mode_that_is_served(verdicts: dict[str, Any], mode: str) -> None:
    assert verdicts[mode]["warnings"] == []


@pytest.mark.parametrize("mode", LIKE_DDP)
def test_the_first_gradients_are_those_of_ddp(verdicts: dict[str, Any], mode: str) -> None:
    expected = verdicts["ddp"]["first_norms"]
    found = {name: verdicts[mode]["first_norms"][name] for name in expected}
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mode", ["zero2-float16", "zero3-float16"])
def test_float16_gradients_are_shown_without_their_loss_scale(
    verdicts: dict[str, Any], mode: str
) -> None:
    expected = verdicts["ddp"]["first_norms"]
    found = {name: verdicts[mode]["first_norms"][name] for name in expected}
    assert found == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("mode", ["fsdp1-lora", "zero2-lora", "zero3-lora"])
def test_the_first_gradients_of_adapters_are_those_of_fsdp2(
    verdicts: dict[str, Any], mode: str
) -> None:
    expected = verdicts["fsdp2-lora"]["first_norms"]
    assert verdicts[mode]["first_norms"] == pytest.approx(expected, rel=1e-4)


def test_tied_weights_are_shown_once(verdicts: dict[str, Any]) -> None:
    assert not [name for name in verdicts["zero3"]["names"] if name.startswith("head")]


def test_a_compiled_model_has_the_names_of_its_author(verdicts: dict[str, Any]) -> None:
    assert verdicts["ddp-compiled"]["names"] == verdicts["ddp"]["names"]


def test_gradients_that_deepspeed_mistakes_for_one_another_are_left_out_and_said_once(
    verdicts: dict[str, Any],
) -> None:
    verdict = verdicts["zero2-round-robin"]
    assert verdict["differences"] == []
    assert len(verdict["warnings"]) == 1
    assert "round_robin_gradients" in verdict["warnings"][0]


def test_a_tensor_that_differs_between_ranks_is_left_out_on_all_of_them(
    cases: dict[str, Any],
) -> None:
    shown = [rank["result"] for rank in cases["parts_of_an_unknown_sharding"]]
    assert "frozen.weight" not in shown[0]
    assert len(shown[0]) == 15
    assert shown[0] == shown[1]


def test_what_is_left_out_is_said_once_by_rank_zero(cases: dict[str, Any]) -> None:
    said = [rank["warnings"] for rank in cases["parts_of_an_unknown_sharding"]]
    assert [len(messages) for messages in said] == [1, 0]
    assert "frozen.weight" in said[0][0]


def test_a_tensor_marked_as_a_part_is_left_out(cases: dict[str, Any]) -> None:
    assert "frozen.bias" not in cases["marked_parts"][0]["result"]


def test_ranks_with_different_parameters_show_none(cases: dict[str, Any]) -> None:
    assert [rank["result"] for rank in cases["different_parameters"]] == [[], []]


def test_a_rank_that_cannot_list_its_parameters_stops_no_other(cases: dict[str, Any]) -> None:
    assert [rank["result"] for rank in cases["one_rank_cannot_list"]] == [[], []]


def test_a_rank_that_cannot_read_a_tensor_reaches_the_collective(cases: dict[str, Any]) -> None:
    found = cases["one_rank_cannot_read"][0]["result"]
    assert found["breaches"] == ["embed.weight (dtensor) has 77 elements, 42 were counted"]
    assert found["right"] == found["rows"] - 1


def test_a_rank_that_cannot_read_a_tensor_says_so(cases: dict[str, Any]) -> None:
    (message,) = cases["one_rank_cannot_read"][1]["warnings"]
    assert "embed.weight" in message


def test_a_rank_without_memory_reaches_the_collectives_of_this_snapshot_and_the_next(
    cases: dict[str, Any],
) -> None:
    here, there = cases["one_rank_has_no_memory"]
    # Of the first, what is whole without that rank is right, and what is not is left out.
    assert here["result"] == [1, 2]
    assert any("no room for the counters" in message for message in there["warnings"])


def test_where_one_rank_cannot_build_the_telemetry_none_has_it(cases: dict[str, Any]) -> None:
    found = [rank["result"] for rank in cases["one_rank_cannot_build"]]
    assert found == ["RuntimeError", "OutOfMemoryError"]


def test_a_sparse_gradient_is_left_out_and_said_once(cases: dict[str, Any]) -> None:
    assert cases["sparse_gradient"][0]["result"] == [False, True, True]
    assert len(cases["sparse_gradient"][0]["warnings"]) == 1


def test_partial_sums_are_left_out(cases: dict[str, Any]) -> None:
    found = [rank["result"] for rank in cases["partial_sums"]]
    assert found == [{"rows": ["whole"], "gradients": [False]}] * 2


def test_a_snapshot_needs_two_collectives_whatever_the_size_of_the_tensors(
    cases: dict[str, Any],
) -> None:
    for rank in cases["collectives"]:
        assert len(rank["result"]["small"]) == 2
        assert rank["result"]["small"] == rank["result"]["large"]
