"""`make_compute_metrics` with metrics of texts: what is decoded, and what is computed of it."""

import sys
from typing import Any

import datasets
import evaluate
import numpy as np
import pytest
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import EvalPrediction, PreTrainedTokenizerFast

from tbtrainer.metrics import make_compute_metrics
from tbtrainer.metrics.texts import TEXT_METRICS

WORDS = ["<pad>", "</s>", "the", "cat", "sat", "on", "a", "mat", "dog", "ran"]
PAD, END = 0, 1
REFERENCES = ["the cat sat on the mat", "a dog ran", "the dog sat on a cat"]
PREDICTIONS = ["the cat sat on a mat", "a dog sat on", "the cat ran on the dog"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")


def tokens(texts: list[str], length: int, filling: int = -100) -> np.ndarray:
    """Tokens of each text and the end of it, shape (texts, length)."""
    rows = [[*map(WORDS.index, text.split()), END] for text in texts]
    return np.array([row + [filling] * (length - len(row)) for row in rows])


def prediction_of(texts: list[str], references: list[str]) -> EvalPrediction:
    return EvalPrediction(tokens(texts, 9), tokens(references, 8))


def test_bleu_is_that_of_sacrebleu(tokenizer: Any) -> None:
    compute_metrics = make_compute_metrics("sacrebleu", tokenizer=tokenizer)
    result = compute_metrics(prediction_of(PREDICTIONS, REFERENCES))
    assert result == {"sacrebleu": sacrebleu.corpus_bleu(PREDICTIONS, [REFERENCES]).score}
    assert 0 < result["sacrebleu"] < 100


def test_rouge_is_the_mean_over_the_texts(tokenizer: Any) -> None:
    compute_metrics = make_compute_metrics("rouge", tokenizer=tokenizer)
    result = compute_metrics(prediction_of(PREDICTIONS, REFERENCES))
    assert list(result) == ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    pairs = list(zip(REFERENCES, PREDICTIONS, strict=True))
    for kind, value in result.items():
        scores = [RougeScorer([kind]).score(r, p)[kind].fmeasure for r, p in pairs]
        assert value == pytest.approx(np.mean(scores)) and 0 < value < 1


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_empty_texts_are_scored(name: str, tokenizer: Any) -> None:
    compute_metrics = make_compute_metrics(name, tokenizer=tokenizer)
    result = compute_metrics(prediction_of(["", ""], ["a cat", ""]))
    assert set(result.values()) == {0.0}


class Texts(evaluate.Metric):
    """Keeps the texts that it is given; stands for a metric of texts of the hub."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        formats = [
            datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
            datasets.Features({"predictions": text, "references": text}),
        ]
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=formats
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        self.seen = [*map(str, predictions)], [*map(str, references)]
        return {"texts": float(len(predictions))}


def decoded(prediction: EvalPrediction, tokenizer: Any, **options: Any) -> tuple[list[str], ...]:
    """What a metric of texts is given."""
    metric = Texts(keep_in_memory=True)
    make_compute_metrics(metric, tokenizer=tokenizer, **options)(prediction)
    return metric.seen


@pytest.mark.parametrize("filling", [-100, PAD, END])
def test_what_fills_a_row_is_no_text(filling: int, tokenizer: Any) -> None:
    prediction = EvalPrediction(tokens(PREDICTIONS, 9, filling), tokens(REFERENCES, 8, filling))
    assert decoded(prediction, tokenizer) == (PREDICTIONS, REFERENCES)


def test_rows_filled_by_the_trainer_are_no_text(tokenizer: Any) -> None:
    prediction = EvalPrediction(tokens(PREDICTIONS, 9, -100), tokens(REFERENCES, 8, PAD))
    assert decoded(prediction, tokenizer, ignore_index=PAD) == (PREDICTIONS, REFERENCES)


def logits_of(classes: np.ndarray) -> np.ndarray:
    return np.eye(len(WORDS), dtype=np.float32)[classes]


def test_logits_of_ignored_labels_are_no_text(tokenizer: Any) -> None:
    labels = tokens(REFERENCES, 8)
    predicted = np.where(labels == -100, WORDS.index("ran"), labels)
    prediction = EvalPrediction((logits_of(predicted), None), labels)
    assert decoded(prediction, tokenizer) == (REFERENCES, REFERENCES)


@pytest.mark.parametrize("reduced", [False, True])
def test_the_predictions_of_next_tokens_are_those_of_labels(reduced: bool, tokenizer: Any) -> None:
    labels = tokens(["ran " + text for text in REFERENCES], 9)
    labels[:, 0] = -100  # The prompt.
    predicted = np.full_like(labels, WORDS.index("mat"))
    predicted[:, :-1] = np.where(labels[:, 1:] == -100, WORDS.index("ran"), labels[:, 1:])
    scores = predicted if reduced else logits_of(predicted)
    prediction = EvalPrediction(scores, labels)
    assert decoded(prediction, tokenizer, next_token=True) == (REFERENCES, REFERENCES)


def test_texts_of_batches_are_those_of_the_whole(tokenizer: Any) -> None:
    options: dict[str, Any] = {"tokenizer": tokenizer}
    whole = make_compute_metrics("rouge", "sacrebleu", **options)
    batched = make_compute_metrics("rouge", "sacrebleu", **options)
    for row, last in ((0, False), (1, False), (2, True)):
        # Each batch is as long as its longest text.
        length = len(PREDICTIONS[row].split()) + 1
        predictions = torch.tensor(tokens(PREDICTIONS[row : row + 1], length))
        labels = torch.tensor(tokens(REFERENCES[row : row + 1], 8))
        result = batched(EvalPrediction(predictions, labels), compute_result=last)
    assert result == whole(prediction_of(PREDICTIONS, REFERENCES))


def test_metrics_of_texts_and_of_classes_are_combined(tokenizer: Any) -> None:
    labels = tokens(REFERENCES, 8)
    compute_metrics = make_compute_metrics("accuracy", "rouge", tokenizer=tokenizer)
    result = compute_metrics(EvalPrediction(logits_of(np.maximum(labels, 0)), labels))
    assert result["accuracy"] == result["rouge1"] == 1.0


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_a_metric_of_texts_needs_a_tokenizer(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' compares texts; pass tokenizer="):
        make_compute_metrics(name)


def test_what_does_not_decode_is_no_tokenizer() -> None:
    with pytest.raises(ValueError, match="tokenizer=3 has no batch_decode"):
        make_compute_metrics("rouge", tokenizer=3)


@pytest.mark.parametrize(
    ("predictions", "labels", "complaint"),
    [
        (np.zeros((2, 3), int), np.zeros(2, int), "tokens of shape"),
        (np.zeros((2, 3), int), np.zeros((2, 3)), "labels are float64"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), "predictions are float64"),
        (np.zeros((3, 3), int), np.zeros((2, 3), int), "generated tokens of each example"),
        (np.zeros((2, 4, 9)), np.zeros((2, 3), int), "one prediction for each label"),
    ],
)
def test_what_is_no_text_is_refused(
    predictions: np.ndarray, labels: np.ndarray, complaint: str, tokenizer: Any
) -> None:
    with pytest.raises(ValueError, match=complaint):
        make_compute_metrics("rouge", tokenizer=tokenizer)(EvalPrediction(predictions, labels))


@pytest.mark.parametrize(("name", "package"), [("rouge", "rouge-score"), ("sacrebleu",) * 2])
def test_a_missing_library_is_named_with_the_extra(
    name: str, package: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, TEXT_METRICS[name].module, None)
    with pytest.raises(ImportError, match=f"needs the package {package}.*extra text-metrics"):
        make_compute_metrics(name, tokenizer=tokenizer)


def test_metrics_of_texts_draw_no_random_numbers(tokenizer: Any) -> None:
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    compute_metrics = make_compute_metrics("rouge", "sacrebleu", tokenizer=tokenizer)
    compute_metrics(prediction_of(PREDICTIONS, REFERENCES))
    assert np.array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
