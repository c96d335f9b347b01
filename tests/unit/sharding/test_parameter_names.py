import pytest

from tbtrainer.sharding.parameter_names import block_name, clean_name


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
    assert clean_name(wrapped) == clean


def test_a_module_named_module_by_its_author_keeps_its_name() -> None:
    assert clean_name("encoder.module.weight") == "encoder.module.weight"


def test_a_parameter_named_module_keeps_a_name() -> None:
    assert clean_name("module") == "module"


def test_cleaning_twice_equals_cleaning_once() -> None:
    once = clean_name("module._orig_mod.module.layers.0._fsdp_wrapped_module.bias")
    assert clean_name(once) == once


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("model.layers.3.mlp.up.weight", "model.layers.3"),
        ("model.layers.3.experts.7.weight", "model.layers.3"),
        ("0.weight", "0"),
        ("lm_head.weight", "lm_head"),
        ("model.norm.weight", "model.norm"),
        ("scale", "scale"),
        ("layer1.conv2.weight", "layer1.conv2"),
    ],
)
def test_a_block_ends_with_the_first_number_or_with_the_module(name: str, block: str) -> None:
    assert block_name(name) == block
