"""Panels of a token classification: words of Python's documentation and what they are."""

import keyword
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    BertConfig,
    BertForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerFast,
    set_seed,
)

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.events import event_files, text, values
from tests.tiny import arguments
from tests.unit.panels.test_spans import tagged

LABELS = ["O", "B-NAME", "I-NAME", "B-NUMBER", "I-NUMBER", "B-KEYWORD"]
WORDS = 20


def label_of(word: str, before: str) -> str:
    """Names are words in capitals, numbers begin with a digit; both may have several words."""
    if keyword.iskeyword(word):
        return "B-KEYWORD"
    for kind, pattern in (("NAME", r"[A-Z][a-z]\w*"), ("NUMBER", r"\d\w*")):
        if re.fullmatch(pattern, word):
            return f"{'I' if re.fullmatch(pattern, before) else 'B'}-{kind}"
    return "O"


def data(sentences: list[list[str]], tokenizer: Any) -> list[dict[str, Any]]:
    rows = []
    for words in sentences:
        names = [label_of(word, before) for before, word in pairwise(["", *words])]
        tokens = tokenizer.convert_tokens_to_ids(words)
        ids = [tokenizer.cls_token_id, *tokens, tokenizer.sep_token_id]
        labels = [-100, *(LABELS.index(name) for name in names), -100]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return rows


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trainer that has trained and evaluated, on sentences of different lengths."""
    words = re.findall(r"\w+|[^\w\s]", " ".join(sorted(topics.values())))[: 500 * WORDS]
    sentences = [
        words[begin : begin + WORDS - begin // WORDS % 7] for begin in range(0, len(words), WORDS)
    ]
    known = [word for word, times in Counter(words).items() if times > 3]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    model = WordLevel({word: n for n, word in enumerate([*special, *known])}, unk_token="[UNK]")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    set_seed(0)
    classifier = BertForTokenClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=WORDS + 2,
            id2label=dict(enumerate(LABELS)),
            label2id={name: number for number, name in enumerate(LABELS)},
        )
    )
    rows = data(sentences, tokenizer)
    made = TBTrainer(
        model=classifier,
        args=arguments(
            TBTrainingArguments,
            tmp_path_factory.mktemp("tokens"),
            max_steps=20,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=32,
            learning_rate=1e-2,
            telemetry_errors="raise",
        ),
        train_dataset=rows[:400],
        eval_dataset=rows[400:],
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
    )
    made.train()
    made.evaluate()
    made.writer.close()
    return made


@pytest.fixture(scope="module")
def file(built: Any) -> Path:
    """The event file of the trainer."""
    (found,) = event_files(Path(built.writer.log_dir))
    return found


def test_panels_of_tokens_are_shown_and_no_others(file: Path) -> None:
    plugins = {(v.tag, v.metadata.plugin_data.plugin_name) for _, v in values(file)}
    assert {each for each in plugins if each[0].startswith("eval/") and each[1]} == {
        ("eval/token_classes/text_summary", "text"),
        ("eval/token_confusion", "images"),
        ("eval/token_mistakes/text_summary", "text"),
    }


def test_spans_are_scored_as_by_seqeval(built: Any, file: Path) -> None:
    predicted = built.predict(built.eval_dataset)
    counted = predicted.label_ids != -100
    classes = predicted.predictions.argmax(axis=-1)
    true, found = (tagged(array, counted, LABELS) for array in (predicted.label_ids, classes))
    right = len(true & found)
    f1 = 2 * right / (len(true) + len(found))
    scores = (right / len(found), right / len(true), f1)
    row = " | ".join(["**micro average**", *(f"{score:.3f}" for score in scores), str(len(true))])
    card = text(file, "eval/token_classes/text_summary")
    assert 0.3 < f1 < 1 and f"| {row} |" in card
    assert f"{np.count_nonzero(counted):,} tokens of 100 examples." in card


def test_mistakes_are_in_their_sentences(file: Path) -> None:
    card = text(file, "eval/token_mistakes/text_summary")
    assert re.search(r"\w <strong>[^<]+</strong> \w", card)
    assert not re.search("CLS|SEP|PAD", card)
