import logging

import pytest
import torch
from torch import nn

from tbtrainer.sharding import ParameterTable, Row, parameter_table
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


def table_of(model: nn.Module) -> ParameterTable:
    return parameter_table(model, is_world_process_zero=True)


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


def test_a_pattern_may_match_anywhere_in_the_name() -> None:
    assert names(table_of(Tied()).select(["bias"])) == ["layers.0.bias", "layers.1.bias"]


def test_excluding_wins_over_including() -> None:
    shown = table_of(Tied()).select(["layers"], ["bias$"])
    assert names(shown) == ["layers.0.weight", "layers.1.weight"]


def test_including_nothing_shows_nothing() -> None:
    assert names(table_of(Tied()).select([])) == []


def test_patterns_see_the_names_without_wrappers() -> None:
    wrapped = nn.Module()
    wrapped.module = Tied()
    assert names(table_of(wrapped).select([r"^embed\."])) == ["embed.weight"]


def test_one_process_needs_no_collective() -> None:
    table = table_of(Tied())
    assert (table.mode, table.needs_reduction) == ("plain", False)


def test_parts_are_the_tensors_themselves_and_not_copies() -> None:
    model = Tied()
    parts = table_of(model).parameters()
    assert [part.data_ptr() for part in parts] == [p.data_ptr() for p in model.parameters()]


def test_parts_carry_no_graph() -> None:
    assert [part.requires_grad for part in table_of(Tied()).parameters()] == [False] * 5


def test_a_parameter_without_a_gradient_has_no_part() -> None:
    model = Tied()
    model.layers[1](torch.ones(3)).sum().backward()
    present = [gradient is not None for gradient in table_of(model).gradients()]
    assert present == [False, False, False, True, True]


def test_other_ranks_count_nothing_of_a_whole_tensor() -> None:
    model = Tied()
    table = parameter_table(model, is_world_process_zero=False)
    assert table.parameters() == [None] * 5


def test_a_selection_leaves_its_table_unchanged() -> None:
    everything = table_of(Tied())
    assert names(everything.select(["embed"])) == ["embed.weight"]
    assert len(everything.rows) == 5


def test_a_tensor_on_the_meta_device_is_warned_of_once(
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


def test_an_unknown_tensor_subclass_is_left_out_with_a_warning(
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

    def part(self, parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        raise AttributeError("no such attribute")


def test_an_unreadable_tensor_does_not_hide_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = torch.ones(2)
    rows = [Row("a", whole, 2, Failing(True)), Row("b", whole, 2, PlainAdapter(True))]
    with caplog.at_level(logging.WARNING):
        parts = ParameterTable(rows).parameters()
    assert [part is not None for part in parts] == [False, True]
    assert "AttributeError: no such attribute" in caplog.text


def test_a_selection_chooses_its_rows_among_the_gradients() -> None:
    everything = table_of(Tied())
    gradients = [torch.full((1,), float(index)) for index in range(5)]
    chosen = everything.select(["bias"]).selected(gradients)
    assert [gradient.item() for gradient in chosen] == [2.0, 4.0]


class Wrapped(nn.Module):
    """A module that its author named `module`, and a parameter beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 2, bias=False)
        self.weight = nn.Parameter(torch.ones(2))


def test_parameters_whose_names_clean_alike_stay_apart() -> None:
    assert sorted(names(table_of(Wrapped()))) == ["module.weight", "weight"]


class CopiedLate(PlainAdapter):
    """Stands for DeepSpeed, which copies gradients from an accelerator and does not wait."""

    copies_gradients = True

    def __init__(self) -> None:
        super().__init__(True)
        self.fragment = torch.zeros(2)

    def gradient_part(self, parameter: torch.Tensor) -> torch.Tensor:
        return self.fragment


def test_copies_to_main_memory_are_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = CopiedLate()
    waited: list[torch.device] = []

    class Accelerator:
        """Its copies arrive when it is waited for."""

        def synchronize(self, device: torch.device) -> None:
            waited.append(device)
            adapter.fragment.fill_(3.0)

    monkeypatch.setattr(torch, "get_device_module", lambda device: Accelerator())
    on_accelerator = nn.Parameter(torch.empty(2, device="meta"))
    rows = [Row(name, on_accelerator, 2, adapter) for name in ("a", "b")]
    first, second = ParameterTable(rows).gradients()
    assert first.tolist() == second.tolist() == [3.0, 3.0]
    assert len(waited) == 1


def test_gradients_in_one_memory_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_device_module", lambda device: pytest.fail("waited"))
    row = Row("a", nn.Parameter(torch.ones(2)), 2, CopiedLate())
    assert ParameterTable([row]).gradients()[0].tolist() == [0.0, 0.0]
