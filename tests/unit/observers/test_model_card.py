"""The card of the model: what is counted, and what is found about it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tbtrainer import tags
from tbtrainer.observers.model_card import ModelCard, block_groups
from tbtrainer.sharding import parameter_table
from tests.tiny import classifier


def training_of(model: nn.Module, **changes: Any) -> Any:
    """A training of a model, as the card reads it."""
    facts: dict[str, Any] = {
        "model": model,
        "unwrapped_model": model,
        "parameters": parameter_table(model, is_world_process_zero=True),
        "accelerator": SimpleNamespace(mixed_precision="no"),
        "training_arguments": SimpleNamespace(tf32=None),
        "is_world_process_zero": True,
    }
    return SimpleNamespace(**{**facts, **changes})


def card(model: nn.Module, **changes: Any) -> str:
    """The text of the card."""
    (text,) = ModelCard().run_begins(0, training_of(model, **changes))
    assert text.once and text.tag == tags.RUN_MODEL.name
    return text.text


def rows(text: str) -> dict[str, list[str]]:
    """The other cells of each row, by the first one."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {first.strip("`"): [cell.strip("`") for cell in rest] for first, *rest in lines}


def test_frozen_parameters_are_counted_apart() -> None:
    model = classifier()
    model.bert.requires_grad_(False)
    total = sum(p.numel() for p in model.parameters())
    shown = rows(card(model))
    assert shown["parameters"] == [f"{total:,}"]
    assert shown["trained"] == [f"34 ({34 / total:.2%})"]
    assert shown["classifier"] == ["1", "34", "all", "float32"]
    assert shown["bert.pooler.dense"] == ["1", "272", "0", "float32"]


def test_the_blocks_add_up_to_the_whole_model() -> None:
    model = classifier(layers=3)
    groups = block_groups(parameter_table(model, is_world_process_zero=True).rows)
    total = sum(p.numel() for p in model.parameters())
    assert sum(len(group.names) * group.count for group in groups) == total
    assert sum(len(group.names) * group.trained for group in groups) == total


def test_layers_of_one_size_share_a_row() -> None:
    model = classifier(layers=4)
    model.bert.encoder.layer[3].requires_grad_(False)
    shown = card(model)
    assert "| `bert.encoder.layer.0` … `bert.encoder.layer.2` | 3 | 2,224 | all |" in shown
    assert "| `bert.encoder.layer.3` | 1 | 2,224 | 0 |" in shown


def test_several_dtypes_are_shown_with_their_shares() -> None:
    model = nn.Sequential(nn.Linear(10, 9, bias=False), nn.Linear(5, 2, bias=False).bfloat16())
    assert rows(card(model))["dtypes"] == ["float32 (90.0%), bfloat16 (10.0%)"]


def test_attention_and_type_are_those_of_the_configuration() -> None:
    shown = rows(card(classifier()))
    assert shown["type"] == ["bert"]
    assert shown["attention"] == [classifier().config._attn_implementation]


@pytest.mark.parametrize("how", ["function", "method", "inside"])
def test_a_compiled_model_is_recognised(how: str) -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    if how == "function":
        model = torch.compile(model)
    elif how == "method":
        model.compile()
    else:
        model[0] = torch.compile(model[0])
    given = SimpleNamespace(torch_compile_backend="inductor", tf32=None)
    assert rows(card(model, training_arguments=given))["compiled"] == ["yes, `inductor"]
    assert rows(card(nn.Linear(4, 2), training_arguments=given))["compiled"] == ["no"]


def test_activation_checkpointing_is_recognised() -> None:
    model = classifier()
    assert rows(card(model))["activation checkpointing"] == ["no"]
    model.gradient_checkpointing_enable()
    assert rows(card(model))["activation checkpointing"] == ["yes"]


def test_adapters_are_shown_with_their_rank() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["query"], task_type="SEQ_CLS")
    assert rows(card(peft.get_peft_model(classifier(), config)))["adapters"] == ["LORA (r=4)"]


def test_what_is_not_counted_is_said() -> None:
    model = classifier()
    setattr(model.classifier.weight, "tensor_model_parallel", True)  # noqa: B010
    assert rows(card(model))["not counted"][0].startswith("1 tensors: they are sharded")


def test_other_ranks_make_no_card() -> None:
    training = training_of(nn.Linear(2, 2), is_world_process_zero=False)
    assert ModelCard().run_begins(0, training) == []
