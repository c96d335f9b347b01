"""The vectors of the Projector: which output they are, and what they are called."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tbtrainer.panels.built_in import chosen_panels
from tbtrainer.panels.projector import Projector
from tbtrainer.records import Embedding
from tests.panel_evaluations import batch, drawn, evaluation, on_meta
from tests.unit.panels.test_token_mistakes import Words

NAN = float("nan")
LABELS = torch.tensor([0, 1, -100])
LOGITS = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
STATES = torch.arange(24.0).reshape(3, 4, 2)
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1]])
MASKED = torch.tensor([[3.0, 4.0], [9.0, 10.0], [22.0, 23.0]])
POOLED = torch.tensor([[1.0, 2.0, 3.0]] * 3)


def shown(
    outputs: dict[str, Any], inputs: dict[str, Any] | None = None, **config: Any
) -> Embedding:
    given = replace(batch(LOGITS, LABELS, **(inputs or {})), outputs=outputs)
    (record,) = drawn(Projector(), [given], **config)
    assert isinstance(record, Embedding) and record.tag == "eval/projector"
    assert record.vectors.dtype == np.float32
    return record


@pytest.mark.parametrize(
    "outputs, expected",
    [
        ({"logits": LOGITS}, LOGITS),
        ({"logits": LOGITS, "hidden_states": (STATES - 1, STATES)}, MASKED),
        ({"logits": LOGITS, "last_hidden_state": STATES}, MASKED),
        ({"logits": LOGITS, "encoder_last_hidden_state": STATES}, MASKED),
        ({"logits": LOGITS, "hidden_states": (STATES,), "pooler_output": POOLED}, POOLED),
        ({"logits": LOGITS, "embeddings": POOLED}, POOLED),
        ({"pooler_output": LOGITS, "sentence_embedding": POOLED}, POOLED),
        ({"logits": LOGITS, "pooler_output": POOLED[:, :, None, None]}, POOLED),
        ({"logits": LOGITS, "embeddings": STATES, "hidden_states": ()}, LOGITS),
        ({"logits": LOGITS, "pooler_output": None}, LOGITS),
    ],
)
def test_the_first_known_output_is_shown(outputs: dict[str, Any], expected: Tensor) -> None:
    found = shown(outputs, {"attention_mask": MASK})
    assert found.vectors.tolist() == expected.tolist()


def test_without_a_mask_the_mean_is_over_all_tokens() -> None:
    found = shown({"logits": LOGITS, "last_hidden_state": STATES})
    assert found.vectors.tolist() == STATES.mean(dim=1).tolist()


def test_of_an_image_the_mean_is_over_its_places() -> None:
    maps = torch.arange(36.0).reshape(3, 2, 2, 3)
    found = shown({"logits": LOGITS, "hidden_states": (maps,)})
    assert found.vectors.tolist() == maps.mean(dim=(2, 3)).tolist()


def test_padding_that_is_not_finite_does_no_harm() -> None:
    states = STATES.clone()
    states[1, 2:] = NAN
    found = shown({"logits": LOGITS, "last_hidden_state": states}, {"attention_mask": MASK})
    assert found.vectors.tolist() == MASKED.tolist()


def test_vectors_that_are_not_finite_are_left_out() -> None:
    logits = LOGITS.clone()
    logits[0, 1] = NAN
    found = shown({"logits": logits}, id2label={0: "no", 1: "yes"})
    assert found.labels == ["yes → no", "no label → yes"]
    assert found.vectors.tolist() == LOGITS[1:].tolist()


def test_large_values_stay_finite() -> None:
    found = shown({"logits": LOGITS, "embeddings": POOLED * 1e6})
    assert found.vectors.max() == 65504


def test_a_label_is_class_prediction_and_text() -> None:
    tokens = torch.tensor([[10, 11, 0], [12, 13, 14], [3, 15, 0]])
    words = Words({10: "all|good"})
    inputs = {"input_ids": tokens}
    names = {0: "no", 1: "yes"}

    class Skipping(Words):
        def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
            return words.decode(tokens)

    found = shown({"logits": LOGITS}, inputs, id2label=names, processing_class=Skipping())
    assert found.labels == [
        "no · all|good w11",
        "yes → no · w12 w13 w14",
        "no label → yes · [UNK] w15",
    ]


def test_a_long_text_is_cut() -> None:
    class Long(Words):
        def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
            return "x " * 100

    given = batch(LOGITS, None, input_ids=torch.ones(3, 50, dtype=torch.int64))
    (record,) = drawn(Projector(), [given], processing_class=Long())
    assert isinstance(record, Embedding)
    assert record.labels == ["x " * 30 + "…"] * 3


def test_a_secret_is_hidden_before_its_text_is_cut() -> None:
    secret = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"

    class Leaking(Words):
        def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
            return "x " * 15 + secret

    given = batch(LOGITS, None, input_ids=torch.ones(3, 50, dtype=torch.int64))
    (record,) = drawn(Projector(), [given], processing_class=Leaking())
    assert isinstance(record, Embedding)
    assert not any("ghp_" in label for label in record.labels)


def test_a_regression_has_its_numbers() -> None:
    labels, logits = torch.tensor([[1.5], [2.0]]), torch.tensor([[1.25], [100000.0]])
    given = replace(batch(logits, labels), outputs={"logits": logits, "embeddings": POOLED[:2]})
    (record,) = drawn(Projector(), [given])
    assert isinstance(record, Embedding) and record.labels == ["1.5 → 1.25", "2 → 1e+05"]


def test_without_labels_vectors_are_numbered() -> None:
    (record,) = drawn(Projector(), [batch(LOGITS, None)])
    assert isinstance(record, Embedding) and record.labels == ["0", "1", "2"]


@pytest.mark.parametrize(
    "logits", [torch.zeros(3, 1), torch.zeros(3, 4, 9), torch.zeros(3, 2).long()]
)
def test_other_outputs_are_not_shown(logits: Tensor) -> None:
    assert not Projector().applies(evaluation(batch(logits, LABELS)))


def test_it_is_shown_on_request_only() -> None:
    assert "projector" not in {panel.name for panel in chosen_panels(["auto"])}
    assert [panel.name for panel in chosen_panels(["projector"])] == ["projector"]


def test_at_most_a_thousand_vectors_are_shown() -> None:
    (record,) = drawn(Projector(), [batch(torch.rand(1500, 3), None)])
    assert isinstance(record, Embedding) and len(record.vectors) == 1000


def test_a_batch_is_kept_without_looking_at_its_values() -> None:
    one = on_meta(batch(LOGITS, LABELS, attention_mask=MASK))
    one = replace(one, outputs={**one.outputs, "last_hidden_state": STATES.to("meta")})
    kept = Projector().batch(one, evaluation(one))
    assert kept is not None and kept.examples["vector"].shape == (3, 2)
