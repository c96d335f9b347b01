import logging

import pytest
import torch
from torch import nn

from tbtrainer.sharding import ParameterTable, Row, breaches, parameter_table
from tbtrainer.sharding.plain import PlainAdapter


class Tied(nn.Module):
    """Two names for one weight, a frozen one, and a compiled part."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.layers[0].requires_grad_(False)


def table_of(model: nn.Module, **selection: list[str]) -> ParameterTable:
    return parameter_table(model, is_world_process_zero=True, **selection)


def names(table: ParameterTable) -> list[str]:
    return [row.name for row in table.rows]


def test_tied_weights_are_one_row() -> None:
    assert names(table_of(Tied())) == [
        "embed.weight",
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
    ]


def test_included_parameters_are_those_that_match_anywhere_in_the_name() -> None:
    assert names(table_of(Tied(), include=["bias"])) == ["layers.0.bias", "layers.1.bias"]


def test_excluding_wins_over_including() -> None:
    shown = table_of(Tied(), include=["layers"], exclude=["bias$"])
    assert names(shown) == ["layers.0.weight", "layers.1.weight"]


def test_including_nothing_shows_nothing() -> None:
    assert names(table_of(Tied(), include=[])) == []


def test_patterns_see_the_names_without_wrappers() -> None:
    wrapped = nn.Module()
    wrapped.module = Tied()
    assert names(table_of(wrapped, include=[r"^embed\."])) == ["embed.weight"]


def test_one_process_needs_no_collective() -> None:
    table = table_of(Tied())
    assert (table.mode, table.needs_reduction) == ("plain", False)


def test_parts_are_the_tensors_themselves_and_not_copies() -> None:
    model = Tied()
    parts = table_of(model).parameters()
    assert [part.data_ptr() for part in parts] == [p.data_ptr() for p in model.parameters()]


def test_parts_carry_no_graph() -> None:
    assert not any(part.requires_grad for part in table_of(Tied()).parameters())


def test_a_parameter_without_a_gradient_has_no_part() -> None:
    model = Tied()
    model.layers[1](torch.ones(3)).sum().backward()
    present = [gradient is not None for gradient in table_of(model).gradients()]
    assert present == [False, False, False, True, True]


def test_other_ranks_count_nothing_of_a_whole_tensor() -> None:
    model = Tied()
    table = parameter_table(model, is_world_process_zero=False)
    assert table.parameters() == [None] * 5


def test_a_selection_is_no_longer_than_what_it_is_taken_from() -> None:
    everything = table_of(Tied())
    assert names(everything.select(["embed"])) == ["embed.weight"]
    assert len(everything.rows) == 5


def test_a_tensor_on_the_meta_device_is_left_out_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = table_of(nn.Linear(2, 2, device="meta"))
    with caplog.at_level(logging.WARNING):
        assert [table.parameters() for _ in range(2)] == [[None, None]] * 2
    assert len(caplog.records) == 1


def test_a_selection_does_not_repeat_the_warnings_of_the_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = table_of(nn.Linear(2, 2, device="meta"))
    with caplog.at_level(logging.WARNING):
        table.parameters()
        table.select(["weight"]).parameters()
    assert len(caplog.records) == 1


class PackedParameter(nn.Parameter):
    """Stands for a quantised weight, whose bytes are not its values."""


def test_a_kind_of_tensor_that_is_not_known_is_left_out_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = nn.Linear(2, 2)
    model.weight = PackedParameter(torch.zeros(2, 2))
    with caplog.at_level(logging.WARNING):
        assert names(table_of(model)) == ["bias"]
    assert "PackedParameter" in caplog.text


class Linear4bit(nn.Linear):
    """Stands for the module of bitsandbytes, which stores what it packs as any dtype."""


def test_weights_that_bitsandbytes_quantised_are_left_out() -> None:
    assert names(table_of(nn.Sequential(Linear4bit(2, 2)))) == ["0.bias"]


class Failing(PlainAdapter):
    """Stands for a mode whose private attributes changed."""

    def parameter_part(self, parameter: torch.Tensor) -> torch.Tensor:
        raise AttributeError("no such attribute")


def test_a_tensor_that_cannot_be_read_does_not_cost_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = torch.ones(2)
    rows = [Row("a", whole, 2, Failing(True)), Row("b", whole, 2, PlainAdapter(True))]
    with caplog.at_level(logging.WARNING):
        parts = ParameterTable(rows).parameters()
    assert [part is not None for part in parts] == [False, True]
    assert "AttributeError: no such attribute" in caplog.text


@pytest.mark.parametrize(
    ("counts", "wrong"), [([4, 2], []), ([0, 2], []), ([8, 2], [0]), ([3, 1], [0, 1])]
)
def test_a_tensor_is_counted_once_or_not_at_all(counts: list[int], wrong: list[int]) -> None:
    table = table_of(nn.Linear(2, 2))
    assert [index for index, _ in breaches(table, torch.tensor(counts))] == wrong


def test_a_breach_names_tensor_mode_and_counts() -> None:
    ((_, problem),) = breaches(table_of(nn.Linear(2, 2)), torch.tensor([8, 2]))
    assert problem == "weight (plain) has 4 elements, 8 were counted"
