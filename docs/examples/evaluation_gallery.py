"""Five small trainings, one per kind of task, whose evaluations TensorBoard shows in pictures.

    pip install scikit-learn
    python docs/examples/evaluation_gallery.py --output_dir gallery
    tensorboard --logdir gallery

The data comes from Python's manual and from scikit-learn, so no network is needed. Nothing in the
scripts asks for a panel: each evaluation shows those that fit its model and its data.
"""

import argparse
import keyword
import re
from collections.abc import Sequence
from pathlib import Path
from pydoc_data import topics
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from tbtrainer import TBTrainer as Trainer
from tbtrainer import TBTrainingArguments as TrainingArguments

LENGTH = 32
MANUAL = "\n".join(topics.topics.values())


def images() -> dict[str, Any]:
    """Handwritten digits, and a small vision transformer that tells them apart."""
    digits = load_digits()
    pixels = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    rows = [
        {"pixel_values": image, "labels": int(label)}
        for image, label in zip(pixels, digits.target, strict=True)
    ]
    return {"model": vision(num_labels=10), **divided(rows)}


def several_labels() -> dict[str, Any]:
    """Handwritten digits, each with any number of four labels, and a small vision transformer."""
    digits = load_digits()
    names = ("even", "prime", "has a loop", "above 4")
    kinds = [{0, 2, 4, 6, 8}, {2, 3, 5, 7}, {0, 6, 8, 9}, {5, 6, 7, 8, 9}]
    pixels = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    rows = [
        {"pixel_values": image, "labels": torch.tensor([float(label in kind) for kind in kinds])}
        for image, label in zip(pixels, digits.target, strict=True)
    ]
    model = vision(
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type="multi_label_classification",
    )
    return {"model": model, **divided(rows)}


def vision(**changes: Any) -> ViTForImageClassification:
    """A vision transformer for pictures of 8 by 8 pixels."""
    return ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            **changes,
        )
    )


class Perceptron(nn.Module):
    """Predicts one number from ten."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Returns loss and predictions, the latter of shape (batch, 1)."""
        logits = self.layers(features)
        return {"loss": nn.functional.mse_loss(logits[:, 0], labels), "logits": logits}


def regression() -> dict[str, Any]:
    """How a disease develops within a year, in standard deviations from the mean."""
    data = load_diabetes()
    target = (data.target - data.target.mean()) / data.target.std()
    rows = [
        {"features": features, "labels": label}
        for features, label in zip(
            torch.tensor(data.data * 20, dtype=torch.float32), target, strict=True
        )
    ]
    return {"model": Perceptron(), **divided(rows)}


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of words and single signs, trained on the manual."""
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary, special_tokens=["[PAD]", "[UNK]"], show_progress=False
    )
    words.train_from_iterator([MANUAL], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")


def windows(tokens: Sequence[Any], rows: int) -> list[Sequence[Any]]:
    """Returns parts of LENGTH tokens, evenly spread over all of them."""
    starts = np.linspace(0, len(tokens) - LENGTH, rows).astype(int)
    return [tokens[start : start + LENGTH] for start in starts]


def kind_of(word: str) -> str:
    """Returns what a word of the manual is."""
    if keyword.iskeyword(word):
        return "keyword"
    if re.fullmatch(r"\d+", word):
        return "number"
    return "name" if re.search(r"_|\w[A-Z]", word) else "O"


def token_classification() -> dict[str, Any]:
    """Which words of the manual are keywords, numbers and names of Python."""
    names = ("O", "B-keyword", "B-number", "B-name")
    words = tokenizer(3000)
    text = re.findall(r"\w+|[^\w\s]", MANUAL)
    rows = []
    for part in windows(text, 1500):
        kinds = [kind_of(word) for word in part]
        ids = words.convert_tokens_to_ids(list(part))
        labels = [names.index(kind if kind == "O" else f"B-{kind}") for kind in kinds]
        rows.append({"input_ids": ids, "attention_mask": [1] * LENGTH, "labels": labels})
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=LENGTH,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    model = BertForTokenClassification(config)
    return {"model": model, "processing_class": words, **divided(rows)}


def language_modelling() -> dict[str, Any]:
    """The next word of the manual."""
    words = tokenizer(2000)
    ids = words(MANUAL)["input_ids"]
    rows = [{"input_ids": part, "labels": part} for part in windows(ids, 3000)]
    config = GPT2Config(
        vocab_size=len(words),
        n_positions=2 * LENGTH,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return {"model": GPT2LMHeadModel(config), "processing_class": words, **divided(rows)}


def divided(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Every fourth row to evaluate on, the others to train on."""
    return {
        "train_dataset": [row for index, row in enumerate(rows) if index % 4],
        "eval_dataset": rows[::4],
    }


TASKS = {
    "images": images,
    "several_labels": several_labels,
    "regression": regression,
    "token_classification": token_classification,
    "language_modelling": language_modelling,
}


def main() -> None:
    """Trains and evaluates one model per task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", default="gallery", help="A run directory per task.")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--max_steps", type=int, default=200)
    chosen = parser.parse_args()
    for task in chosen.tasks:
        set_seed(0)
        args = TrainingArguments(
            output_dir=str(Path(chosen.output_dir) / task / "output"),
            logging_dir=str(Path(chosen.output_dir) / task),
            max_steps=chosen.max_steps,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            learning_rate=2e-3,
            eval_strategy="steps",
            eval_steps=0.5,
            save_strategy="no",
            report_to="none",
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        Trainer(args=args, **TASKS[task]()).train()
    print(f"Look at them: tensorboard --logdir {chosen.output_dir}")


if __name__ == "__main__":
    main()
