"""Records refuse what cannot be written, where the mistake was made."""

from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard.summary import compute_curve

from tbtrainer.records import Embedding, Image, JsonLine, PrCurve


@pytest.mark.parametrize("file", ["health.jsonl", "a-1_B.c.jsonl", "x.jsonl"])
def test_a_plain_name_is_taken(file: str) -> None:
    assert JsonLine(file, {}).file == file


@pytest.mark.parametrize(
    "file",
    [
        *("", ".jsonl", ".hidden.jsonl", "health.json", "health.jsonl\n", "health.jsonl.part"),
        *("a/b.jsonl", "../b.jsonl", "/b.jsonl", "a\\b.jsonl", "s3://b.jsonl", "a\0.jsonl"),
        *("events.out.tfevents.1.jsonl", "ä.jsonl", "x" * 65 + ".jsonl", None, 3),
    ],
    ids=repr,
)
def test_a_name_that_is_not_plain_is_refused(file: Any) -> None:
    with pytest.raises(ValueError, match="such as 'health.jsonl'"):
        JsonLine(file, {})


@pytest.mark.parametrize("key", ["step", "time"])
def test_the_keys_of_the_run_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"'{key}', which the run adds itself"):
        JsonLine("health.jsonl", {"loss": 1.0, key: 3})


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 3, 3)), np.zeros((2, 3), np.uint8), np.zeros((2, 3, 4), np.uint8), None]
)
def test_pixels_of_another_form_are_refused(pixels: Any) -> None:
    with pytest.raises(ValueError, match="uint8 of shape"):
        Image("eval/x", pixels)


def test_an_embedding_needs_a_label_per_vector() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) have 2 labels"):
        Embedding("eval/x", np.zeros((3, 2), np.float32), ["a", "b"])


@pytest.mark.parametrize("thresholds", [5, 127])
def test_a_curve_of_counts_is_that_of_tensorboard(thresholds: int) -> None:
    random = np.random.default_rng(0)
    scores, labels = random.random(200), random.random(200) < 0.3
    scores[:2] = 0.0, 1.0
    bins = np.floor(scores * (thresholds - 1)).astype(int)
    positives, negatives = (
        np.bincount(bins[which], minlength=thresholds) for which in (labels, ~labels)
    )
    curve = PrCurve.from_counts("x", positives, negatives).raw_fields()
    expected = compute_curve(labels, scores, num_thresholds=thresholds)
    names = ("true_positive", "false_positive", "true_negative", "false_negative")
    own = [curve[f"{name}_counts"] for name in names] + [curve["precision"], curve["recall"]]
    np.testing.assert_allclose(own, expected, rtol=1e-6)
