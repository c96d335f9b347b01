import pytest

from tbtrainer.observers.row_groups import AUTO_MAX_ROWS, row_names

EXPERTS = [
    f"model.layers.{layer}.mlp.experts.{expert}.{name}.weight"
    for layer in range(40)
    for expert in range(30)
    for name in ("up_proj", "down_proj")
]


def grouped(*names: str, detail: str = "block", counts: list[int] | None = None) -> list[str]:
    return row_names(names, counts or [6] * len(names), detail)


def test_experts_of_a_layer_share_a_row() -> None:
    found = row_names(EXPERTS, [600] * len(EXPERTS), "auto")
    assert len(set(found)) == 80
    assert found[0] == found[2] == "model.layers.0.mlp.experts.*.up_proj.weight"


def test_a_row_per_parameter_is_kept_where_asked_for() -> None:
    assert row_names(EXPERTS, [600] * len(EXPERTS), "parameter") == EXPERTS


@pytest.mark.parametrize(("number", "shared"), [(AUTO_MAX_ROWS, False), (AUTO_MAX_ROWS + 1, True)])
def test_auto_groups_beyond_a_thousand_rows(number: int, shared: bool) -> None:
    names = [f"layers.0.experts.{expert}.weight" for expert in range(number)]
    assert (len(set(row_names(names, [6] * number, "auto"))) == 1) == shared


def test_layers_never_share_a_row() -> None:
    names = ["layers.0.weight", "layers.1.weight"]
    assert grouped(*names) == names


def test_a_number_that_begins_the_name_is_no_block() -> None:
    names = ["0.layer.3.experts.0.weight", "0.layer.3.experts.1.weight"]
    assert grouped(*names) == ["0.layer.3.experts.*.weight"] * 2


def test_siblings_of_different_size_keep_their_rows() -> None:
    names = ["layers.0.mlp.0.weight", "layers.0.mlp.2.weight"]
    assert grouped(*names, counts=[6, 8]) == names


def test_a_tensor_without_siblings_keeps_its_name() -> None:
    assert grouped("layers.0.mlp.0.weight") == ["layers.0.mlp.0.weight"]


def test_numbers_at_the_end_are_grouped_by_block_only() -> None:
    names = [f"layers.0.scales.{number}" for number in range(AUTO_MAX_ROWS + 1)]
    assert grouped(*names, detail="auto") == names
    assert set(grouped(*names)) == {"layers.0.scales.*"}


def test_tensors_of_unknown_size_are_grouped_too() -> None:
    names = ["layers.0.experts.0.out", "layers.0.experts.1.out"]
    assert row_names(names, [None, None], "block") == ["layers.0.experts.*.out"] * 2
