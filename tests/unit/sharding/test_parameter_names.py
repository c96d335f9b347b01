import pytest

from tbtrainer.sharding.parameter_names import block_name, clean_names


@pytest.mark.parametrize(
    ("wrapped", "clean"),
    [
        ("model.layers.3.mlp.weight", "model.layers.3.mlp.weight"),
        ("module.lm_head.weight", "lm_head.weight"),
        ("module.module.lm_head.weight", "lm_head.weight"),
        ("_orig_mod.module.lm_head.weight", "lm_head.weight"),
        ("module._orig_mod.lm_head.weight", "lm_head.weight"),
        ("_fsdp_wrapped_module.layers.0._fsdp_wrapped_module.bias", "layers.0.bias"),
        ("layers.0._checkpoint_wrapped_module.bias", "layers.0.bias"),
        ("layers.0._fsdp_wrapped_module._flat_param", "layers.0._flat_param"),
    ],
)
def test_wrappers_leave_no_trace_in_a_name(wrapped: str, clean: str) -> None:
    assert clean_names([wrapped])[0] == clean


def test_a_module_named_module_by_its_author_keeps_its_name() -> None:
    assert clean_names(["encoder.module.weight"])[0] == "encoder.module.weight"


def test_a_parameter_named_module_keeps_a_name() -> None:
    assert clean_names(["module"])[0] == "module"


def test_cleaning_twice_equals_cleaning_once() -> None:
    once = clean_names(["module._orig_mod.module.layers.0._fsdp_wrapped_module.bias"])[0]
    assert clean_names([once])[0] == once


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("model.layers.3.mlp.up.weight", "model.layers.3"),
        ("model.layers.3.experts.7.weight", "model.layers.3"),
        ("0.weight", "0"),
        ("1.weight", "1"),
        ("2.0.weight", "2.0"),
        ("2.0.conv.weight", "2.0.conv"),
        ("0.auto_model.encoder.layer.3.attention.weight", "0.auto_model.encoder.layer.3"),
        ("0.auto_model.embeddings.word.weight", "0.auto_model.embeddings.word"),
        ("2.linear.weight", "2.linear"),
        ("0", "0"),
        ("lm_head.weight", "lm_head"),
        ("model.norm.weight", "model.norm"),
        ("scale", "scale"),
        ("layer1.conv2.weight", "layer1.conv2"),
    ],
)
def test_a_block_ends_with_a_number_or_with_the_module(name: str, block: str) -> None:
    assert block_name(name) == block


def test_names_of_a_model_in_a_wrapper_lose_it_all() -> None:
    assert clean_names(["module.a.weight", "module.b"]) == ["a.weight", "b"]


def test_a_module_named_module_beside_others_keeps_its_name() -> None:
    assert clean_names(["module.weight", "weight"]) == ["module.weight", "weight"]
    wrapped = ["module.module.weight", "module.weight"]
    assert clean_names(wrapped) == ["module.weight", "weight"]


def test_names_that_would_become_equal_are_kept() -> None:
    names = ["a._orig_mod.weight", "a.weight", "b._orig_mod.weight"]
    assert clean_names(names) == ["a._orig_mod.weight", "a.weight", "b.weight"]


def test_a_model_without_parameters_has_no_names() -> None:
    assert clean_names([]) == []
