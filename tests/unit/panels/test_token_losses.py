"""The loss of each token is the model's own, wherever its labels are."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, pad
from transformers import PreTrainedModel

from tbtrainer.panels import PanelBatch
from tbtrainer.panels import token_losses as module
from tbtrainer.panels.language_tasks import is_language_model, label_shift, unwrapped
from tbtrainer.panels.token_losses import token_losses
from tests.language_models import Paragraphs, batch_of, bert, evaluation_of, gpt2, predicted, t5


def inputs_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A batch with padding and labels that are left out."""
    inputs = batch_of(Paragraphs(5).rows)
    inputs["labels"][:, 3] = -100
    if model.config.is_encoder_decoder:
        inputs["labels"] = inputs["labels"].flip(1)
    return inputs


@pytest.mark.parametrize("make", [gpt2, bert, t5])
def test_their_mean_is_the_loss_of_the_model(make: Any) -> None:
    model = make()
    batch = predicted(model, inputs_of(model))
    found = token_losses(batch, evaluation_of(model, batch))
    torch.testing.assert_close(found.loss.sum() / found.counted.sum(), batch.loss)


@pytest.mark.parametrize("limit", [1, 4 * 400 * 7, 2**30])
def test_slices_change_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CPU_BYTES", limit)
    model = gpt2()
    batch = predicted(model, inputs_of(model))
    found = token_losses(batch, evaluation_of(model, batch))
    expected = cross_entropy(
        batch.outputs["logits"][:, :-1].flatten(0, 1),
        batch.labels[:, 1:].flatten(),
        reduction="none",
    )
    torch.testing.assert_close(found.loss[:, 1:].flatten(), expected)
    assert found.loss[:, 0].tolist() == [0.0] * 5


def test_bfloat16_is_computed_in_float32() -> None:
    model = gpt2()
    batch = predicted(model, inputs_of(model))
    batch.outputs["logits"] = batch.outputs["logits"].to(torch.bfloat16)
    found = token_losses(batch, evaluation_of(model, batch))
    logits = batch.outputs["logits"][:, :-1].flatten(0, 1).double()
    expected = cross_entropy(logits, batch.labels[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(found.loss[:, 1:].flatten().double(), expected, atol=1e-5, rtol=0)


def test_what_is_not_finite_is_not_counted() -> None:
    model = gpt2()
    batch = predicted(model, batch_of([[5, 6, 7, 8], [9, 10, 11, 12]]))
    batch.outputs["logits"][0, 1] = torch.nan
    batch.outputs["logits"][1, 2, 12] = -torch.inf
    found = token_losses(batch, evaluation_of(model, batch))
    assert found.labelled.tolist() == [[False, True, True, True]] * 2
    assert found.counted.tolist() == [[False, True, False, True], [False, True, True, False]]
    assert found.loss.isfinite().all()


def test_a_label_that_is_no_token_is_not_counted() -> None:
    model = gpt2()
    batch = predicted(model, batch_of([[5, 6, 7, 8]]))
    batch.labels[0] = torch.tensor([5, -1, 10**6, 8])
    found = token_losses(batch, evaluation_of(model, batch))
    assert found.counted.tolist() == [[False, False, False, True]]


def test_a_batch_is_not_changed() -> None:
    model = gpt2()
    batch = predicted(model, inputs_of(model))
    before = batch.labels.clone(), batch.outputs["logits"].clone()
    token_losses(batch, evaluation_of(model, batch))
    assert torch.equal(batch.labels, before[0])
    assert torch.equal(batch.outputs["logits"], before[1])


def test_several_panels_share_the_losses() -> None:
    model = gpt2()
    batch = predicted(model, inputs_of(model))
    evaluation = evaluation_of(model, batch)
    assert token_losses(batch, evaluation) is token_losses(batch, evaluation)


@pytest.mark.parametrize(("make", "shift"), [(gpt2, 1), (bert, 0), (t5, 0)])
def test_the_architecture_decides_the_shift(make: Any, shift: int) -> None:
    model = make()
    batch = predicted(model, inputs_of(model))
    assert label_shift(evaluation_of(model, batch)) == shift


def test_a_decoder_that_does_not_shift_is_left_out() -> None:
    from transformers import BartConfig, BartForCausalLM

    sizes = {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2}
    model = BartForCausalLM(BartConfig(vocab_size=400, decoder_ffn_dim=16, **sizes))
    batch = predicted(model, batch_of([[5, 6, 7, 8]]))
    assert label_shift(evaluation_of(model, batch)) is None
    assert not is_language_model(evaluation_of(model, batch))


def test_a_subclass_is_what_it_is_derived_from() -> None:
    class Own(type(gpt2())):  # type: ignore[misc]
        """A user's model."""

    model = Own(gpt2().config)
    batch = predicted(model, batch_of([[5, 6, 7, 8]]))
    assert label_shift(evaluation_of(model, batch)) == 1


def test_wrappers_are_looked_through() -> None:
    model = gpt2()
    compiled = torch.compile(model)
    assert unwrapped(compiled) is model  # type: ignore[arg-type]
    assert unwrapped(torch.nn.DataParallel(model)) is model


def test_a_module_called_module_is_no_wrapper() -> None:
    model = gpt2()
    model.add_module("module", torch.nn.Linear(1, 1))
    assert unwrapped(model) is model


@pytest.mark.parametrize("change", ["labels", "classes", "tuple", "shift_labels", "floats"])
def test_other_tasks_are_left_out(change: str) -> None:
    model = gpt2()
    batch = predicted(model, batch_of([[5, 6, 7, 8]]))
    labels, outputs = batch.labels, batch.outputs
    inputs = dict(batch.inputs)
    if change == "labels":
        labels = labels[:, 0]
    elif change == "classes":
        outputs = {"logits": outputs["logits"][..., :9]}
    elif change == "tuple":
        labels = (labels, labels)
    elif change == "floats":
        labels = labels.float()
    else:
        inputs["shift_labels"] = labels
    changed = type(batch)(batch.size, inputs, outputs, None, labels, batch.loss)
    assert is_language_model(evaluation_of(model, batch))
    assert not is_language_model(evaluation_of(model, changed))


def fused(batch: PanelBatch) -> PanelBatch:
    """The same batch, as a fused language-model head returns it."""
    labels, logits = batch.labels[:, 1:], batch.outputs["logits"][:, :-1]
    counted = labels != -100
    log_probs = logits.log_softmax(-1).gather(2, labels.clamp(min=0)[:, :, None]).squeeze(2)
    outputs = {"loss": batch.loss, "log_probs": log_probs * counted, "label_mask": counted}
    return replace(batch, outputs=outputs)


def test_log_probabilities_take_the_place_of_logits() -> None:
    model = gpt2()
    batch = predicted(model, inputs_of(model))
    expected = token_losses(batch, evaluation_of(model, batch))
    given = evaluation_of(model, fused(batch))
    assert is_language_model(given)
    assert fused(batch).logits is None
    found = token_losses(fused(batch), given)
    torch.testing.assert_close(found.loss, expected.loss)
    assert torch.equal(found.counted, expected.counted)
    assert torch.equal(found.labelled, expected.labelled)


def test_log_probabilities_of_another_shape_are_left_out() -> None:
    model = gpt2()
    batch = fused(predicted(model, inputs_of(model)))
    # As of labels that were shifted before, or of a prompt that PEFT puts in front.
    longer = pad(batch.outputs["log_probs"], (1, 0))
    batch = replace(batch, outputs={**batch.outputs, "log_probs": longer})
    assert not is_language_model(evaluation_of(model, batch))
