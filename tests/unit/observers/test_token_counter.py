"""Tokens and samples are those that the model is given, without padding."""

import pytest
import torch

from tbtrainer.observers.token_counter import TokenCounter, TokenCounts


def ids(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def counted(*batches: object) -> TokenCounts:
    counter = TokenCounter()
    counter.add(batches)
    return counter.take()


def test_padding_is_not_counted() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    assert counted({"input_ids": ids(2, 4), "attention_mask": mask}) == TokenCounts(
        tokens=4, sequences=2, samples=2
    )


def test_without_a_mask_every_token_counts() -> None:
    assert counted({"input_ids": ids(3, 5)}, {"input_ids": ids(1, 7)}) == TokenCounts(
        tokens=22, sequences=4, samples=4
    )


def test_a_mask_of_another_shape_leaves_out_nothing() -> None:
    batch = {"input_ids": ids(2, 4), "attention_mask": torch.zeros(2, 1, 4, 4)}
    assert counted(batch) == TokenCounts(tokens=8, sequences=2, samples=2)


def test_images_are_samples_without_tokens() -> None:
    found = counted({"pixel_values": torch.zeros(6, 3, 8, 8), "labels": ids(6)})
    assert found == TokenCounts(tokens=0, sequences=0, samples=6)


@pytest.mark.parametrize("batch", [None, "text", 3, {}, {"input_ids": "text"}, {"x": ids()}])
def test_what_holds_no_batch_counts_nothing(batch: object) -> None:
    assert counted(batch) == TokenCounts(0, 0, 0)


def test_taking_begins_anew() -> None:
    counter = TokenCounter()
    counter.add([{"input_ids": ids(2, 4), "attention_mask": ids(2, 4) + 1}])
    assert (counter.take().tokens, counter.take().tokens) == (8, 0)


def test_counting_does_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a value was read")

    counter = TokenCounter()
    for name in ("item", "tolist", "cpu", "__int__", "__float__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    counter.add([{"input_ids": ids(2, 4), "attention_mask": ids(2, 4) + 1}] * 3)
