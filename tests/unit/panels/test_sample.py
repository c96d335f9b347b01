"""Samples: uniform, the same ones every time, within their bounds, over any number of ranks."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tbtrainer.panels.sample import Examples, Sample, hashes, joined
from tests.accelerator import Accelerator

NAN, INF = float("nan"), float("inf")


def sampled(
    size: int,
    batch: int,
    most: int,
    priorities: Tensor | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> Examples | None:
    """What a rank keeps of the numbers from 0 to `size`, which ranks get in batches in turn."""
    sample = Sample(most)
    for begin in range(rank * batch, size, batch * ranks):
        numbers = torch.arange(begin, min(begin + batch, size))
        priority = None if priorities is None else priorities[numbers]
        sample.add({"number": numbers}, priority, begin)
    return sample.kept()


def numbers_in(examples: Examples | None) -> list[int]:
    assert examples is not None
    found: list[int] = examples.ordered().columns["number"].tolist()
    return found


def joined_over(ranks: int, *arguments: Any) -> list[int]:
    """The numbers that are kept if so many ranks take turns."""
    size, batch, most, priorities = arguments
    parts = [sampled(size, batch, most, priorities, rank, ranks) for rank in range(ranks)]
    return numbers_in(joined([part for part in parts if part is not None], most))


def test_all_examples_are_kept_in_order_below_the_bound() -> None:
    assert numbers_in(sampled(19, batch=4, most=100)) == list(range(19))


def test_no_more_than_the_bound_is_kept() -> None:
    assert len(numbers_in(sampled(1000, batch=7, most=50))) == 50


@pytest.mark.parametrize("batch", [1, 3, 64, 1000])
def test_a_sample_is_the_same_in_batches_of_any_size(batch: int) -> None:
    expected = np.sort(np.argsort(hashes(np.arange(1000)))[:50]).tolist()
    assert numbers_in(sampled(1000, batch, most=50)) == expected


def test_a_sample_is_uniform_over_the_data() -> None:
    size, tenths = 20_000, 10
    kept = numbers_in(sampled(size, batch=500, most=2000))
    counts = np.histogram(kept, bins=tenths, range=(0, size))[0]
    # Chi-squared with 9 degrees of freedom: 27.9 is exceeded once in a thousand samples.
    assert float(((counts - 200) ** 2 / 200).sum()) < 27.9


def test_hashes_of_numbers_are_all_different() -> None:
    assert len(set(hashes(np.arange(100_000)).tolist())) == 100_000


def test_an_order_follows_its_numbers_far_into_the_data() -> None:
    first = 2**52
    sample = Sample(10)
    sample.add({"number": torch.arange(first, first + 20)}, None, first)
    expected = np.argsort(hashes(np.arange(first, first + 20)))[:10] + first
    assert numbers_in(sample.kept()) == sorted(expected.tolist())


@given(
    size=st.integers(1, 300),
    batch=st.integers(1, 40),
    most=st.integers(1, 60),
    ranks=st.integers(1, 5),
    values=st.lists(st.sampled_from([NAN, -INF, INF, 0.0, 1.0, 2.5, -3.0]), min_size=300)
    | st.none(),
)
@settings(deadline=None, max_examples=60)
def test_ranks_together_keep_the_sample_of_the_whole(
    size: int, batch: int, most: int, ranks: int, values: list[float] | None
) -> None:
    priorities = None if values is None else torch.tensor(values)
    found = joined_over(ranks, size, batch, most, priorities)
    assert found == joined_over(1, size, size, most, priorities)


def ranked(priorities: Tensor, most: int = 4, batch: int = 3) -> list[int]:
    """Which of examples with some priorities are kept."""
    return numbers_in(sampled(len(priorities), batch, most, priorities))


def test_the_highest_priorities_are_kept_first() -> None:
    assert ranked(torch.tensor([1.0, 5.0, 2.0, 9.0, 3.0, 7.0, 0.0])) == [3, 5, 1, 4]


def test_of_equal_priorities_the_earlier_are_kept() -> None:
    assert ranked(torch.tensor([1.0, 2.0, 2.0, 1.0, 2.0, 2.0, 2.0])) == [1, 2, 4, 5]


def test_examples_without_a_priority_are_not_kept() -> None:
    assert ranked(torch.tensor([NAN, 1.0, -INF, NAN, 2.0, NAN, NAN])) == [4, 1]


def test_an_infinite_priority_is_the_highest() -> None:
    assert ranked(torch.tensor([1.0, INF, 2.0, 0.5, 3.0, 0.1, 0.2])) == [1, 4, 2, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_priorities_of_any_dtype_are_compared(dtype: torch.dtype) -> None:
    assert ranked(torch.tensor([1, 5, 2, 9, 3, 7, 0]).to(dtype)) == [3, 5, 1, 4]


def test_nothing_is_kept_of_nothing() -> None:
    sample = Sample(5)
    sample.add({"number": torch.zeros(0)}, None, 0)
    assert sample.kept() is None


def test_a_batch_is_not_kept_as_the_same_memory() -> None:
    batch = torch.arange(4)
    sample = Sample(10)
    sample.add({"number": batch}, None, 0)
    batch.zero_()
    assert numbers_in(sample.kept()) == [0, 1, 2, 3]


def test_examples_share_a_bound_in_bytes() -> None:
    sample = Sample(1000, most_bytes=10_000)
    for first in range(0, 500, 50):
        sample.add({"row": torch.zeros(50, 100, dtype=torch.uint8)}, None, first)
    kept = sample.kept()
    assert kept is not None and len(kept.numbers) == 100


def test_one_example_is_kept_whatever_it_takes() -> None:
    sample = Sample(1000, most_bytes=10)
    sample.add({"row": torch.zeros(5, 100)}, None, 0)
    kept = sample.kept()
    assert kept is not None and kept.columns["row"].shape == (1, 100)


def test_all_ranks_together_keep_the_bytes_of_one() -> None:
    parts = []
    for rank in range(4):
        sample = Sample(10**6)
        sample.add({"row": torch.zeros(200, 2500)}, None, 200 * rank)
        parts.append(sample.kept())
    kept = joined([part for part in parts if part is not None], 10**6)
    assert kept is not None and kept.columns["row"].nbytes == 2_000_000


@pytest.mark.parametrize("with_priority", [False, True])
def test_narrower_rows_get_zeros_at_their_end(with_priority: bool) -> None:
    sample = Sample(100)
    for first, width in ((0, 2), (2, 4), (4, 3)):
        priority = torch.arange(2.0) if with_priority else None
        sample.add({"row": torch.ones(2, width, 1)}, priority, first)
    kept = sample.kept()
    assert kept is not None
    widths = kept.rows(np.argsort(kept.numbers)).columns["row"].sum(axis=(1, 2))
    assert kept.columns["row"].shape == (6, 4, 1)
    assert widths.tolist() == [2, 2, 4, 4, 3, 3]


def test_rows_of_ranks_become_equally_wide() -> None:
    parts = []
    for rank, width in enumerate((2, 5)):
        sample = Sample(100)
        sample.add({"row": torch.ones(1, width)}, None, rank)
        parts.append(sample.kept())
    kept = joined([part for part in parts if part is not None], 100)
    assert kept is not None
    assert kept.ordered().columns["row"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]


def test_bfloat16_reaches_the_host_as_float32() -> None:
    sample = Sample(10)
    sample.add({"value": torch.tensor([1.5, 2.5]).bfloat16()}, None, 0)
    kept = sample.kept()
    assert kept is not None and kept.columns["value"].dtype == np.float32


@pytest.mark.parametrize(
    "examples, priority, said",
    [
        ({"a": torch.zeros(3), "b": torch.zeros(2)}, None, "{'a': (3,), 'b': (2,)}"),
        ({"a": torch.tensor(1.0)}, None, "{'a': ()}"),
        ({"a": torch.zeros(3)}, torch.zeros(2), "the only one of the priorities"),
        ({"a": torch.zeros(3)}, torch.zeros(3, 1), "the only one of the priorities"),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    examples: dict[str, Tensor], priority: Tensor | None, said: str
) -> None:
    with pytest.raises(ValueError) as raised:
        Sample(5).add(examples, priority, 0)
    assert said in str(raised.value)


def test_a_column_that_is_no_tensor_is_named() -> None:
    examples: Any = {"texts": ["a", "b"]}
    with pytest.raises(TypeError, match="'texts' as a list"):
        Sample(5).add(examples, None, 0)


def test_other_columns_than_before_are_named() -> None:
    sample = Sample(5)
    sample.add({"a": torch.zeros(3)}, None, 0)
    with pytest.raises(ValueError, match=r"\['a'\] of earlier batches and \['b'\]"):
        sample.add({"b": torch.zeros(3)}, None, 3)


@pytest.mark.parametrize("first", [None, torch.zeros(3)])
def test_priorities_are_for_all_batches_or_none(first: Tensor | None) -> None:
    sample = Sample(5)
    sample.add({"a": torch.zeros(3)}, first, 0)
    with pytest.raises(ValueError, match="for each batch or for none"):
        sample.add({"a": torch.zeros(3)}, torch.zeros(3) if first is None else None, 3)


def test_different_columns_of_ranks_are_an_error() -> None:
    parts = []
    for name in ("a", "b"):
        sample = Sample(5)
        sample.add({name: torch.zeros(3)}, None, 0)
        parts.append(sample.kept())
    with pytest.raises(ValueError, match="different columns on different ranks"):
        joined([part for part in parts if part is not None], 5)


@pytest.mark.parametrize("with_priority", [False, True])
def test_the_device_is_not_waited_for(with_priority: bool) -> None:
    sample, expected = Sample(6), Sample(6)
    with Accelerator("lazy") as accelerator:
        accelerator.may_be_waited_for = False
        for first in range(0, 20, 4):
            columns = {"row": torch.arange(first, first + 4.0)[:, None] * torch.ones(1, 3)}
            priority = columns["row"][:, 0] % 7 if with_priority else None
            expected.add(columns, priority, first)
            sample.add(
                {name: accelerator.put(column) for name, column in columns.items()},
                None if priority is None else accelerator.put(priority),
                first,
            )
        accelerator.may_be_waited_for = True
        found, right = sample.kept(), expected.kept()
    assert found is not None and right is not None
    assert found.columns["row"].tolist() == right.columns["row"].tolist()
    assert found.order.tolist() == right.order.tolist()
