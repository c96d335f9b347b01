"""Panels of an image classification: handwritten digits and a small vision transformer."""

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, set_seed

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.events import event_files, values
from tests.tiny import arguments

# What a class may be called. Neither the third nor half of the fourth can be written as UTF-8.
NAMES = [
    "猫",
    "😀 face",
    "\ud83d",
    "a\ud800",
    "\x07bell\x00",
    "$x_{$",
    "a|b",
    "two\nlines",
    "",
    "9",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that has evaluated 297 digits."""
    digits = load_digits()
    processor = ViTImageProcessor(image_mean=[0.5], image_std=[0.5])
    pixels = (torch.tensor(digits.images[1500:, None], dtype=torch.float32) / 16 - 0.5) / 0.5
    rows = [
        {"pixel_values": image, "labels": int(label)}
        for image, label in zip(pixels, digits.target[1500:], strict=True)
    ]
    set_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            id2label=dict(enumerate(NAMES)),
            label2id={name: index for index, name in enumerate(NAMES)},
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            output_hidden_states=True,
        )
    )
    args = arguments(
        TBTrainingArguments,
        tmp_path_factory.mktemp("images"),
        per_device_eval_batch_size=64,
        evaluation_panels=["auto", "projector"],
        telemetry_errors="raise",
    )
    made = TBTrainer(model=model, args=args, eval_dataset=rows, processing_class=processor)
    made.evaluate()
    made.writer.close()
    return Path(made.writer.log_dir)


def test_mistakes_of_images_are_a_picture_and_no_table(directory: Path) -> None:
    (file,) = event_files(directory)
    plugins = {(v.tag, v.metadata.plugin_data.plugin_name) for _, v in values(file)}
    assert {(tag, kind) for tag, kind in plugins if tag.startswith("eval/")} >= {
        ("eval/confusion_matrix", "images"),
        ("eval/image_mistakes", "images"),
    }
    # The table of mistakes is for texts and for a few numbers.
    assert not [tag for tag, kind in plugins if kind == "text" and tag.startswith("eval/")]


def test_the_projector_has_a_named_vector_per_image(directory: Path) -> None:
    (vectors,) = directory.glob("projector_eval_projector_*_vectors.tsv")
    rows = vectors.read_text().splitlines()
    assert len(rows) == 297 and len(rows[0].split("\t")) == 32
    (file,) = directory.glob("projector_eval_projector_*_labels.tsv")
    labels = file.read_text().splitlines()
    assert len(labels) == 297
    names = ["猫", "😀 face", "�", "a�", "�bell�", "$x_{$", "a|b", "two lines", "8", "9"]
    assert {label.partition(" → ")[0] for label in labels} == set(names)


def test_every_class_has_a_curve_whatever_its_name(directory: Path) -> None:
    (file,) = event_files(directory)
    begin = "eval/pr_curve/"
    curves = [v.tag.removeprefix(begin) for _, v in values(file) if v.tag.startswith(begin)]
    assert len(curves) == 10 and {"猫", "�", "a�", "�bell�", "two lines"} <= set(curves)
