"""The worst token of each example, with its probability and what surrounds it."""

import html
import re
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.plugin_util import markdown_to_safe_html

from tbtrainer.panels.panel import KeptOfAllRanks, PanelBatch
from tbtrainer.panels.worst_tokens import CONTEXT, WorstTokens
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


def kept_of(model: Any, batch: PanelBatch) -> KeptOfAllRanks:
    """What is kept of one batch, the highest loss first."""
    kept = WorstTokens().batch(batch, evaluation_of(model, batch))
    assert kept.priority is not None
    order = kept.priority.argsort(descending=True)
    order = order[kept.priority[order].isfinite()]
    examples = {name: column[order].numpy() for name, column in kept.examples.items()}
    return KeptOfAllRanks(examples, kept.priority[order].numpy(), {}, batch.size)


def text_of(kept: KeptOfAllRanks) -> str:
    model = gpt2()
    batch = predicted(model, batch_of([[5, 6, 7]]))
    (record,) = WorstTokens().draw(kept, evaluation_of(model, batch))
    return record.text


@pytest.mark.parametrize(("make", "shift"), [(gpt2, 1), (bert, 0), (t5, 0)])
def test_it_is_the_token_of_the_lowest_probability(make: Any, shift: int) -> None:
    model = make()
    batch = predicted(model, batch_of(Paragraphs(5).rows))
    kept = WorstTokens().batch(batch, evaluation_of(model, batch))
    assert kept.priority is not None
    probabilities = batch.outputs["logits"].softmax(dim=2)
    for row, labels in enumerate(batch.labels.tolist()):
        by_place = {
            place: float(probabilities[row, place - shift, label])
            for place, label in enumerate(labels)
            if label >= 0 and place >= shift
        }
        place = min(by_place, key=lambda at: by_place[at])
        highest = probabilities[row, place - shift].max(dim=0)
        assert kept.examples["label"][row] == labels[place]
        assert float((-kept.priority[row]).exp()) == pytest.approx(by_place[place], rel=1e-5)
        assert int(kept.examples["preferred"][row]) == int(highest.indices)
        assert float(kept.examples["probability"][row]) == pytest.approx(float(highest.values))


def planted(row: list[int], place: int, **inputs: torch.Tensor) -> tuple[Any, PanelBatch]:
    """A batch of one text, in which the token at a place is the least expected one."""
    model = gpt2()
    batch = predicted(model, {**batch_of([row]), **inputs})
    batch.outputs["logits"][0, place - 1, row[place]] = -50.0
    return model, batch


def test_the_context_is_the_text_around_it() -> None:
    row = list(range(10, 50))
    kept = kept_of(*planted(row, 20))
    context = [token - 1 for token in kept.examples["context"][0]]
    assert context == row[20 - CONTEXT : 20 + CONTEXT + 1]


def test_the_context_ends_where_the_text_does() -> None:
    row = list(range(10, 15))
    kept = kept_of(*planted(row, 4))
    context = kept.examples["context"][0].tolist()
    assert context == [0] * 8 + [token + 1 for token in row] + [0] * CONTEXT


def test_padding_is_no_context() -> None:
    model = gpt2()
    batch = predicted(model, batch_of([[5, 6, 7], [10, 11, 12, 13, 14]], left=True))
    kept = WorstTokens().batch(batch, evaluation_of(model, batch))
    assert int((kept.examples["context"][0] > 0).sum()) == 3


def test_the_context_of_a_mask_has_the_label() -> None:
    model, mask = bert(), tokenizer().mask_token_id
    inputs = batch_of([[5, 6, 7]])
    inputs["input_ids"][0, 1], inputs["labels"][0, 0::2] = mask, -100
    kept = kept_of(model, predicted(model, inputs))
    assert kept.examples["context"][0, CONTEXT - 1 : CONTEXT + 2].tolist() == [6, 7, 8]


def test_an_example_without_a_finite_loss_is_left_out() -> None:
    model = gpt2()
    batch = predicted(model, batch_of([[5, 6, 7], [8, 9, 10], [11, 12, 13]]))
    batch.labels[0] = -100
    batch.outputs["logits"][1] = torch.nan
    kept = kept_of(model, batch)
    assert kept.examples["label"].tolist() in ([12], [13])


def test_the_token_is_marked_in_its_text() -> None:
    tokens = tokenizer()
    row = tokens("Assert statements are a convenient way to insert")["input_ids"]
    place = next(at for at in range(1, len(row)) if tokens.decode(row[: at + 1]).endswith(" are"))
    page = markdown_to_safe_html(text_of(kept_of(*planted(row, place))))
    marked = tokens.decode([row[place]]).strip()
    assert f"statements <strong>{marked}</strong> a convenient" in page


def test_markdown_of_a_text_does_not_break_the_table() -> None:
    tokens = tokenizer()
    text = "a | b <i>c</i>\n\n# d | [e](f)"
    row = tokens(text)["input_ids"]
    page = markdown_to_safe_html(text_of(kept_of(*planted(row, 5))))
    assert (page.count("<tr>"), page.count("<td"), page.count("<i>")) == (2, 5, 0)
    shown = re.sub("</?strong>", "", html.unescape(page))
    assert "a | b <i>c</i> # d |" in shown


def test_a_secret_over_several_tokens_is_hidden() -> None:
    tokens = tokenizer()
    secret = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
    row = tokens(secret)["input_ids"]
    place = min(len(row) // 2, CONTEXT)
    text = text_of(kept_of(*planted(row[: CONTEXT + place], place)))
    assert tokens.decode(row[place + 1 : place + 8]) not in text


def test_a_token_of_spaces_is_seen() -> None:
    tokens = tokenizer()
    row = tokens("one\ntwo")["input_ids"]
    place = row.index(tokens("\n")["input_ids"][0])
    assert text_of(kept_of(*planted(row, place))).splitlines()[4].startswith("| ⏎ |")


def test_the_highest_loss_comes_first() -> None:
    model = gpt2()
    batch = predicted(model, batch_of([[5, 6, 7], [8, 9, 10]]))
    batch.outputs["logits"][1, 0, 9] = -60.0
    batch.outputs["logits"][0, 0, 6] = -30.0
    rows = text_of(kept_of(model, batch)).splitlines()[4:]
    probabilities = [float(row.split(" | ")[1]) for row in rows]
    assert probabilities == sorted(probabilities)
    assert np.all(np.array(probabilities) < 1e-10)


def test_without_a_tokenizer_it_does_not_apply() -> None:
    model = gpt2()
    batch = predicted(model, batch_of([[5, 6, 7]]))
    assert WorstTokens().applies(evaluation_of(model, batch))
    assert not WorstTokens().applies(evaluation_of(model, batch, processing_class=None))
