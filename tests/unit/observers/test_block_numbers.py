"""The numbers of the blocks are those of all their elements together."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tbtrainer.observers.block_numbers import BlockNumbers, blocks_of
from tbtrainer.statistics import Snapshot, SnapshotRows, WholeTensors, take_snapshot

CPU = torch.device("cpu")
SIX_DIGITS = {"rel": 5e-6}


def snapshot_of(tensors: dict[str, Tensor | None], sizes: int = 0, **changes: Any) -> Snapshot:
    """A snapshot of tensors by name; of those that are `None`, `sizes` elements are expected."""
    counts = [sizes if tensor is None else tensor.numel() for tensor in tensors.values()]
    rows = SnapshotRows.of(list(tensors), counts, CPU)
    return replace(take_snapshot(lambda: list(tensors.values()), rows, WholeTensors()), **changes)


def numbers_of(tensors: dict[str, Tensor | None], target: str = "gradients") -> BlockNumbers:
    return BlockNumbers.of(target, 7, snapshot_of(tensors, sizes=4))


def normal(size: int, scale: float = 1.0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size)) * scale


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(width=32, min_value=-1e4, max_value=1e4), min_size=1, max_size=30),
        min_size=1,
        max_size=5,
    )
)
def test_numbers_are_those_of_numpy(rows: list[list[float]]) -> None:
    tensors = [torch.tensor(row) for row in rows]
    found = numbers_of({f"layers.0.part{n}.weight": t for n, t in enumerate(tensors)})
    values = torch.cat(tensors).double().numpy()
    assert found.blocks == ("layers.0",)
    assert found.rms[0] == pytest.approx(math.sqrt((values**2).mean()), **SIX_DIGITS)
    assert found.abs_max[0] == pytest.approx(np.abs(values).max(), **SIX_DIGITS)
    assert found.zeros[0] == pytest.approx((values == 0).mean(), **SIX_DIGITS)
    squares = float((values**2).sum())
    if not math.isnan(found.kurtosis[0]):
        ratio = found.kurtosis[0] * squares**2 / (len(values) * float((values**4).sum()))
        assert 0.888 <= ratio <= 1.134
    elif values.any():  # Only magnitudes below 2**-40 have no narrow buckets here.
        assert np.abs(values[values != 0]).min() < 2.0**-40


@pytest.mark.parametrize(
    "values, kurtosis",
    [
        (normal(100_000), 3.0),
        (torch.full((50,), -0.7), 1.0),
        (torch.cat([torch.zeros(99), torch.tensor([5.0])]), 100.0),
        (torch.from_numpy(np.random.default_rng(0).laplace(size=100_000)), 6.0),
    ],
    ids=["normal", "equal", "one of a hundred", "Laplace"],
)
def test_kurtosis_is_about_zero(values: Tensor, kurtosis: float) -> None:
    found = numbers_of({"head.weight": values}).kurtosis[0]
    assert found == pytest.approx(kurtosis, rel=0.03)


def test_blocks_are_in_the_order_of_the_model() -> None:
    names = ["embed.weight", *(f"h.{n}.{m}.weight" for n in range(12) for m in "ab"), "norm.bias"]
    found = numbers_of({name: normal(8) for name in names})
    assert found.blocks == ("embed", *(f"h.{n}" for n in range(12)), "norm")
    modules, places = blocks_of("activations", ["model.embed", "model.layers.0", "lm_head"])
    assert modules == ("model.embed", "model.layers.0", "lm_head")
    assert places.tolist() == [0, 1, 2]


def test_elements_that_are_not_finite_are_counted_apart() -> None:
    values = torch.tensor([1.0, math.nan, -3.0, math.inf])
    found = numbers_of({"h.0.weight": values, "h.1.weight": normal(4)})
    assert found.nonfinite.tolist() == [2, 0]
    assert found.rms[0] == pytest.approx(math.sqrt(5), **SIX_DIGITS)
    assert found.abs_max[0] == 3
    assert np.isinf(found.shown).tolist() == [True, False]


def test_a_block_without_elements_is_not_known() -> None:
    nothing = torch.full((4,), math.nan)
    found = numbers_of({"h.0.weight": None, "h.1.weight": normal(4), "h.2.weight": nothing})
    assert np.isnan(found.rms).tolist() == [True, False, True]
    assert found.nonfinite.tolist() == [0, 0, 4]
    assert np.isinf(found.shown).tolist() == [False, False, True]


def test_a_block_that_was_measured_in_part_is_not_known() -> None:
    rows = SnapshotRows.of(["h.0.a", "h.0.b", "h.1.a"], [4, 6, 4], CPU)
    parts = [normal(4), normal(3), normal(4)]
    snapshot = take_snapshot(lambda: parts, rows, WholeTensors())
    found = BlockNumbers.of("gradients", 1, snapshot)
    assert np.isnan(found.rms).tolist() == [True, False]


def test_rows_of_unknown_size_need_every_rank() -> None:
    rows = SnapshotRows.of(["h.0", "h.1"], [None, None], CPU)
    snapshot = take_snapshot(lambda: [normal(4), normal(5)], rows, WholeTensors())
    assert not np.isnan(BlockNumbers.of("activations", 1, snapshot).rms).any()
    failed = replace(snapshot, failed_ranks=torch.tensor(1))
    assert np.isnan(BlockNumbers.of("activations", 1, failed).rms).all()


def test_the_ratio_is_that_of_the_trained_parameters() -> None:
    tensors = {"h.0.a": normal(8, 0.01), "h.0.b": None, "h.1.a": normal(6)}
    beside = torch.tensor([8.0, 1e6, 6e4], dtype=torch.float64)
    found = BlockNumbers.of("updates", 1, snapshot_of(tensors, sizes=4, beside=beside))
    assert found.ratio is not None
    expected = [float(normal(8, 0.01).square().mean().sqrt()), float(normal(6).std(correction=0))]
    assert found.ratio[0] == pytest.approx(expected[0], rel=1e-5)
    mean_square = float(normal(6).double().square().mean())
    assert found.ratio[1] == pytest.approx(math.sqrt(mean_square / 1e4), rel=1e-5)
    assert found.shown.tolist() == found.ratio.tolist()
    unknown = BlockNumbers.of("updates", 1, snapshot_of(tensors, sizes=4))
    assert unknown.ratio is not None and np.isnan(unknown.ratio).all()


def test_a_line_gives_the_same_numbers_back() -> None:
    tensors = {"h.0.a": normal(80, 1e-5), "h.1.a": None, "h.2.a": torch.zeros(4)}
    beside = torch.tensor([8.0, 4.0, 6e4], dtype=torch.float64)
    for target in ("gradients", "updates"):
        found = BlockNumbers.of(target, 7, snapshot_of(tensors, sizes=4, beside=beside))
        line = json.loads(json.dumps({"step": 7, "time": 1.0, **found.values()}, allow_nan=False))
        back = BlockNumbers.from_line(target, line)
        assert back is not None and back.blocks == found.blocks and back.step == 7
        for name, numbers in vars(found).items():
            if isinstance(numbers, np.ndarray):
                np.testing.assert_array_equal(getattr(back, name), numbers)


FIELDS = ("rms", "abs_max", "zeros", "kurtosis")
WHOLE = {"step": 1, "blocks": ["a"], "nonfinite": [0], **dict.fromkeys(FIELDS, [1.0])}


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    "change",
    [
        {"rms": ["x"]},
        {"nonfinite": [0, 0]},
        {"nonfinite": ["NaN"]},
        {"blocks": ["a", "b"]},
        {"blocks": "a"},
        {"blocks": 3},
        {"blocks": [nested(900)]},
        {"blocks": ["a." * 251]},
        {"zeros": [[1.0]]},
        {"step": None},
        {"step": math.inf},
    ],
)
def test_a_line_with_other_values_is_refused(change: dict[str, Any]) -> None:
    assert BlockNumbers.from_line("gradients", WHOLE) is not None
    assert BlockNumbers.from_line("gradients", {**WHOLE, **change}) is None


@pytest.mark.parametrize("key", WHOLE)
def test_a_line_without_a_key_is_refused(key: str) -> None:
    line = {name: value for name, value in WHOLE.items() if name != key}
    assert BlockNumbers.from_line("gradients", line) is None


def test_a_line_with_too_many_blocks_is_refused() -> None:
    many = {name: value * 10_001 for name, value in WHOLE.items() if isinstance(value, list)}
    assert BlockNumbers.from_line("gradients", {**WHOLE, **many}) is None
