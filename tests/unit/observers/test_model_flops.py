"""The operations of a token are those that one counts by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from tbtrainer.observers.model_flops import ModelFlops, compute_dtype, model_flops
from tbtrainer.sharding import parameter_table

LAYERS, HIDDEN, INNER, VOCABULARY, HEADS, OF_HEAD = 2, 16, 24, 50, 2, 12
PROJECTIONS = 4 * HIDDEN * HEADS * OF_HEAD
LAYER = PROJECTIONS + 3 * HIDDEN * INNER + 2 * HIDDEN
OUTPUT = HIDDEN + VOCABULARY * HIDDEN  # The last norm, and the output layer.


def llama(tied: bool = False) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            head_dim=OF_HEAD,
            tie_word_embeddings=tied,
        )
    )


def flops(model: nn.Module) -> ModelFlops | None:
    return model_flops(model, parameter_table(model, is_world_process_zero=True))


@pytest.mark.parametrize("tied", [False, True])
def test_each_trained_weight_costs_six(tied: bool) -> None:
    found = flops(llama(tied))
    assert found is not None
    assert found.per_token == 6 * (LAYERS * LAYER + OUTPUT)


def test_attention_grows_with_the_sequence() -> None:
    found = flops(llama())
    assert found is not None
    attention = 12 * LAYERS * HEADS * OF_HEAD
    assert found.of_token(100.0) - found.of_token(0.0) == 100 * attention


def test_frozen_weights_after_a_trained_one_cost_four() -> None:
    model = llama()
    for parameter in model.model.layers[1].parameters():
        parameter.requires_grad = False
    found = flops(model)
    assert found is not None
    assert found.per_token == 6 * (LAYER + OUTPUT) + 4 * LAYER


def test_frozen_weights_before_the_first_trained_one_cost_two() -> None:
    model = llama()
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    found = flops(model)
    assert found is not None
    assert found.per_token == 2 * (LAYERS * LAYER + HIDDEN) + 6 * VOCABULARY * HIDDEN


def test_positions_are_looked_up_and_cost_nothing() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=30, n_positions=9))
    found = flops(model)
    assert found is not None
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert found.per_token == 6 * (weights - 9 * 8)


def mixture() -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return MixtralForCausalLM(MixtralConfig(vocab_size=9, num_local_experts=2, **sizes, **heads))


def encoder_and_decoder() -> nn.Module:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )


def quantised() -> nn.Module:
    model = llama()
    model.lm_head.weight = nn.Parameter(torch.zeros(10, dtype=torch.uint8), requires_grad=False)
    return model


@pytest.mark.parametrize(
    "build", [mixture, encoder_and_decoder, quantised, lambda: nn.Linear(2, 2)]
)
def test_a_model_whose_cost_is_another_has_none(build: Any) -> None:
    assert flops(build()) is None


@pytest.mark.parametrize(
    "mixed, dtype, tf32, expected",
    [
        ("bf16", torch.float32, None, "bfloat16"),
        ("fp16", torch.float32, True, "float16"),
        ("fp8", torch.bfloat16, None, "fp8"),
        ("no", torch.bfloat16, None, "bfloat16"),
        ("no", torch.float32, True, "tf32"),
        ("no", torch.float32, None, "float32"),
    ],
)
def test_the_dtype_of_matrix_products(
    mixed: str, dtype: torch.dtype, tf32: bool | None, expected: str
) -> None:
    table = parameter_table(nn.Linear(2, 2).to(dtype), is_world_process_zero=True)
    assert compute_dtype(SimpleNamespace(mixed_precision=mixed), table, tf32) == expected
