"""Generations are the model's own greedy ones, and leave model and tokenizer as they were."""

import copy
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tbtrainer.panels import generations
from tbtrainer.panels.generating import MOST_PROMPT_TOKENS, generate, unsupported_reason
from tbtrainer.panels.generations import Generations
from tbtrainer.panels.panel import KeptOfAllRanks, PanelBatch, PanelEvaluation
from tbtrainer.panels.prompts import encoded
from tests.language_models import (
    Paragraphs,
    batch_of,
    bert,
    evaluation_of,
    gpt2,
    predicted,
    t5,
    tokenizer,
)


def by_hand(model: Any, prompt: list[int], most: int = 32) -> list[int]:
    """What a causal model adds, token by token, without a cache and without padding."""
    tokens = list(prompt)
    for _ in range(most):
        with torch.no_grad():
            following = int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
        if following == model.config.eos_token_id:
            break
        tokens.append(following)
    return tokens[len(prompt) :]


def evaluation(model: Any, inputs: Any = None, **changes: Any) -> PanelEvaluation:
    inputs = batch_of(Paragraphs(5).rows) if inputs is None else inputs
    return evaluation_of(model, predicted(model, inputs), **changes)


def opened(shown: PanelEvaluation) -> Generations:
    """A panel that was given the first batch of an evaluation."""
    panel = Generations()
    assert panel.applies(shown)
    return panel


def generated(shown: PanelEvaluation) -> dict[str, list[list[int]]]:
    """Prompts, generated tokens and references."""
    kept = opened(shown).finish(shown)
    assert kept is not None
    return {
        name: [[token - 1 for token in row if token > 0] for row in column[0].tolist()]
        for name, column in kept.examples.items()
    }


def text_of(shown: PanelEvaluation) -> list[str]:
    """The lines of the card."""
    kept = opened(shown).finish(shown)
    assert kept is not None
    examples = {name: column.numpy() for name, column in kept.examples.items()}
    (record,) = Generations().draw(KeptOfAllRanks(examples, None, {}, 5), shown)
    return record.text.splitlines()


def test_it_continues_the_first_half_of_the_first_examples() -> None:
    model, rows = gpt2(), Paragraphs(5).rows
    found = generated(evaluation(model))
    for number, row in enumerate(rows[:3]):
        half = len(row) // 2
        assert found["prompt"][number] == row[:half]
        assert found["reference"][number] == row[half : half + 32]
        assert found["generated"][number] == by_hand(model, row[:half])
    assert len(found["prompt"]) == 3


def test_a_prompt_ends_where_the_labels_begin() -> None:
    row = Paragraphs(1).rows[0]
    inputs = batch_of([row], left=True)
    inputs["labels"][0, :5] = -100
    found = generated(evaluation(gpt2(), inputs))
    assert (found["prompt"][0], found["reference"][0]) == (row[:5], row[5:])


def test_an_encoder_decoder_is_given_the_whole_input() -> None:
    model, rows = t5(), Paragraphs(4).rows
    inputs = batch_of(rows)
    inputs["labels"] = batch_of([row[:6] for row in rows])["labels"]
    found = generated(evaluation(model, inputs))
    assert found["prompt"] == rows[:3]
    assert found["reference"] == [row[:6] for row in rows[:3]]
    alone = model.generate(torch.tensor([rows[0]]), max_new_tokens=32, do_sample=False)[0, 1:]
    assert found["generated"][0] == [int(t) for t in alone if t != tokenizer().eos_token_id]


def test_given_prompts_are_continued() -> None:
    model, prompts = gpt2(), ["Assert statements", "The"]
    shown = evaluation(model, generation_prompts=prompts)
    found = generated(shown)
    tokens = [tokenizer()(prompt)["input_ids"] for prompt in prompts]
    assert found["prompt"] == tokens
    assert found["generated"] == [by_hand(model, row) for row in tokens]
    lines = text_of(shown)
    assert lines[0] == "| prompt | generated |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| Assert statements", "| The"]


def test_of_a_long_prompt_the_end_is_taken() -> None:
    model = gpt2(n_positions=600)
    found = generated(evaluation(model, generation_prompts=["the class " * 300]))
    tokens = tokenizer()("the class " * 300)["input_ids"]
    assert found["prompt"][0] == tokens[-MOST_PROMPT_TOKENS:]


def test_prompt_and_generation_fit_the_positions_of_the_model() -> None:
    found = generated(evaluation(gpt2(n_positions=64), generation_prompts=["the class " * 300]))
    assert (len(found["prompt"][0]), len(found["generated"][0])) == (32, 32)


def test_a_token_that_the_model_lacks_is_an_error() -> None:
    model = gpt2()
    shown = evaluation(model, generation_prompts=["the"])
    model.config.vocab_size = 5
    with pytest.raises(ValueError, match="the model has 5 tokens"):
        opened(shown).finish(shown)


def test_nothing_is_drawn_at_random() -> None:
    model = gpt2()
    expected = generated(evaluation(model))
    model.generation_config.update(do_sample=True, temperature=3.0, max_length=40, top_k=3)
    before = torch.get_rng_state()
    assert generated(evaluation(model)) == expected
    assert torch.equal(torch.get_rng_state(), before)


def test_settings_of_the_arguments_are_used(tmp_path: Any) -> None:
    model = t5()
    shown = evaluation(model)
    shown.training_arguments.generation_max_length = 6  # type: ignore[attr-defined]
    shown.training_arguments.generation_num_beams = 2  # type: ignore[attr-defined]
    row = Paragraphs(1).rows[0]
    alone = model.generate(torch.tensor([row]), max_length=6, num_beams=2, do_sample=False)
    found = generated(shown)["generated"][0]
    assert found == alone[0, 1:].tolist()[: len(found)] and len(found) <= 5


def state_of(model: PreTrainedModel) -> Any:
    return (
        [module.training for module in model.modules()],
        copy.deepcopy(model.config.to_dict()),
        str(vars(model.generation_config)),
        id(model.generation_config),
        set(vars(model)),
        [name for module in model.modules() for name in vars(module)],
    )


@pytest.mark.parametrize("make", [gpt2, t5])
def test_the_model_is_as_it_was_before(make: Any) -> None:
    model = make()
    shown = evaluation(model)
    model.config.use_cache = False
    model.train()
    next(model.children()).eval()
    before = state_of(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    generated(shown)
    assert state_of(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_mode_is_restored_after_an_error() -> None:
    model = gpt2()
    shown = evaluation(model)
    model.train()
    model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(shown, [[5, 6]])
    assert model.training and model.lm_head.training


def test_a_compiled_model_is_not_compiled_again() -> None:
    compiled = 0

    def count(module: Any, example: Any) -> Any:
        nonlocal compiled
        compiled += 1
        return module.forward

    model = gpt2()
    shown = evaluation(model)
    model.compile(backend=count)
    expected = by_hand(gpt2().eval(), Paragraphs(1).rows[0][: len(Paragraphs(1).rows[0]) // 2])
    assert generated(shown)["generated"][0] == expected
    assert compiled == 0


def test_a_mixed_precision_training_generates_in_its_dtype() -> None:
    model, seen = gpt2(), []
    shown = evaluation(model)
    model.lm_head.register_forward_hook(lambda *values: seen.append(values[2].dtype))
    shown.training_arguments.bf16 = True
    generated(shown)
    assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize("padding", [False, True])
def test_a_tokenizer_is_as_it_was_before(padding: bool) -> None:
    tokens = tokenizer()
    expected = tokens("Assert statements are")["input_ids"]
    tokens(["a", "b c d"], truncation=True, max_length=2, padding=padding)
    before = tokens.backend_tokenizer.to_str()
    assert encoded("Assert statements are", tokens) == expected
    assert tokens.backend_tokenizer.to_str() == before


def test_a_tokenizer_in_python_is_called() -> None:
    assert encoded("abc", lambda text: {"input_ids": list(text.encode())}) == [97, 98, 99]


def test_what_the_evaluation_generated_is_shown() -> None:
    model, rows = t5(), Paragraphs(4).rows
    inputs = batch_of(rows)
    outputs = torch.full((4, 5), tokenizer().pad_token_id)
    outputs[:, 1:3] = torch.tensor([[5, 6]])
    batch = PanelBatch(4, inputs, None, outputs, inputs["labels"], None)
    shown = evaluation_of(model, batch)
    panel = opened(shown)
    kept = panel.batch(batch, shown)
    assert panel.finish(shown) is None
    assert kept is not None
    examples = {name: column.numpy() for name, column in kept.examples.items()}
    (record,) = Generations().draw(KeptOfAllRanks(examples, None, {}, 4), shown)
    lines = record.text.splitlines()
    assert lines[0] == "| prompt | generated | reference |"
    assert len(lines) == 2 + 3
    assert lines[2].split(" | ")[1] == tokenizer().decode([5, 6]).strip()


def test_an_empty_list_of_prompts_switches_it_off() -> None:
    assert Generations().applies(evaluation(gpt2()))
    assert not Generations().applies(evaluation(gpt2(), generation_prompts=[]))


def test_prompts_without_a_tokenizer_are_an_error() -> None:
    assert not Generations().applies(evaluation(gpt2(), processing_class=None))
    with pytest.raises(ValueError, match="processing_class"):
        Generations().applies(evaluation(gpt2(), processing_class=None, generation_prompts=["the"]))


def test_a_masked_model_does_not_generate() -> None:
    assert not Generations().applies(evaluation(bert()))


def test_a_model_that_needs_more_than_text_is_left_out() -> None:
    shown = evaluation(gpt2())
    assert shown.first_batch is not None
    inputs = {**shown.first_batch.inputs, "pixel_values": torch.zeros(5, 3)}
    first = PanelBatch(5, inputs, shown.first_batch.outputs, None, shown.first_batch.labels, None)
    assert not Generations().applies(evaluation_of(gpt2(), first))
    assert Generations().applies(evaluation_of(gpt2(), first, generation_prompts=["the"]))


def test_an_adapter_generates_and_a_learnt_prompt_does_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=["c_attn"],
        init_lora_weights=False,
        fan_in_fan_out=True,
    )
    model = peft.get_peft_model(gpt2(), settings)
    shown = evaluation(model)
    assert Generations().applies(shown)
    row = Paragraphs(1).rows[0]
    assert generated(shown)["generated"][0] == by_hand(model, row[: len(row) // 2])
    settings = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    prefixed = peft.get_peft_model(gpt2(), settings)
    assert shown.first_batch is not None
    with caplog.at_level(logging.WARNING, logger="tbtrainer"):
        for _ in range(2):
            assert not Generations().applies(evaluation_of(prefixed, shown.first_batch))
    assert len([r for r in caplog.records if "a prompt of its own" in r.getMessage()]) == 1


def test_text_does_not_break_the_table() -> None:
    shown = evaluation(gpt2(), generation_prompts=["a | b\n\n# <b>c</b>"])
    lines = text_of(shown)
    assert len(lines) == 3
    assert lines[2].startswith("| a &#124; b # &#60;b&#62;c&#60;/b&#62; | ")


def test_rows_of_nothing_are_drawn_as_empty_cells() -> None:
    examples = {
        "prompt": np.array([[[6]]]),
        "generated": np.zeros((1, 1, 0), dtype=np.int32),
        "reference": np.zeros((1, 1, 0), dtype=np.int32),
    }
    shown: Any = SimpleNamespace(
        generation_prompts=None, processing_class=tokenizer(), tag=lambda name: name
    )
    (record,) = Generations().draw(KeptOfAllRanks(examples, None, {}, 1), shown)
    assert len(record.text.splitlines()) == 3


def test_a_rank_without_examples_generates_no_more_than_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generations, "true_on_any_rank", lambda flags: [True])
    monkeypatch.setattr(generations, "is_divided", lambda model: pytest.fail("goes on alone"))
    assert Generations().finish(evaluation(gpt2())) is None


@pytest.mark.parametrize("mark, mode", [("ds_tensor", "ZeRO-3"), ("to_local", "tensor parallel")])
def test_models_divided_in_untried_ways_do_not_generate(mark: str, mode: str) -> None:
    model = gpt2()
    setattr(next(iter(model.parameters())), mark, None)
    assert mode in (unsupported_reason(model) or "")
    assert unsupported_reason(gpt2()) is None
