"""The grid of the most confident mistakes of an image classifier."""

from typing import Any

import numpy as np
import pytest
import torch

from tbtrainer.panels import image_mistakes as module
from tbtrainer.panels.image_mistakes import ImageMistakes
from tbtrainer.records import Image
from tests.panel_evaluations import batch, drawn, evaluation, on_meta, texts_of_pictures

NAMES = {0: "cat", 1: "dog"}


def images(number: int, channels: int = 1, side: int = 2) -> torch.Tensor:
    """Images whose first pixel is the n-th of 255 shades."""
    pixels = torch.zeros(number, channels, side, side)
    pixels[:, :, -1, -1] = 255
    pixels[:, :, 0, 0] = torch.arange(number)[:, None].float()
    return pixels


def shown(
    monkeypatch: pytest.MonkeyPatch, *batches: Any, **config: Any
) -> tuple[list[str], list[Any]]:
    """The texts and the images of the picture."""
    texts = texts_of_pictures(monkeypatch, module)
    drawn_images: list[Any] = []
    draw = module._draw

    def noted(figure: Any, found: Any, *others: Any) -> None:
        drawn_images.extend(found)
        draw(figure, found, *others)

    monkeypatch.setattr(module, "_draw", noted)
    (record,) = drawn(ImageMistakes(), batches, **{"id2label": NAMES, **config})
    assert isinstance(record, Image) and record.tag == "eval/image_mistakes"
    return texts, drawn_images


def given(logits: list[list[float]], labels: list[int], pixels: torch.Tensor) -> Any:
    return batch(torch.tensor(logits), torch.tensor(labels), pixel_values=pixels)


FIRST = given([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], [1, 0, 0], images(3))
SECOND = given([[4.0, 0.0], [9.0, 0.0]], [1, -100], images(2) + 7)


def test_the_most_confident_mistake_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, found = shown(monkeypatch, FIRST, SECOND)
    captions = [text for text in texts if "\n→" in text]
    assert captions == ["dog\n→ cat\n98%", "dog\n→ cat\n88%", "cat\n→ dog\n73%"]
    title = "All 3 mistakes in 4 of 5 examples\nlabel → prediction, its probability"
    assert title in texts
    assert [int(image[0, 0, 0]) for image in found] == [0, 0, 1]
    assert all(image.shape == (2, 2, 3) and image.dtype == np.uint8 for image in found)


def test_at_most_sixteen_mistakes_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = [[number / 10, 0.0] for number in range(30)]
    texts, found = shown(monkeypatch, given(logits, [1] * 30, images(30)))
    assert [int(image[0, 0, 0]) for image in found] == list(range(29, 13, -1))
    assert any(text.startswith("The 16 most confident of 30 mistakes in 30") for text in texts)


def test_colours_are_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.tensor([[[[0.0, 1.0]], [[0.0, 0.0]], [[0.5, 1.0]]]])
    _, (image,) = shown(monkeypatch, given([[2.0, 0.0]], [1], pixels))
    assert image.tolist() == [[[0, 0, 128], [255, 0, 255]]]


def test_batches_may_have_images_of_different_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [[2.0, 0.0]]
    small, large = torch.rand(1, 3, 2, 3), torch.rand(1, 3, 100, 50)
    batches = given(wrong, [1], small), given([[3.0, 0.0]], [1], large), given(wrong, [1], small)
    _, found = shown(monkeypatch, *batches)
    assert [image.shape for image in found] == [(64, 32, 3), (2, 3, 3), (2, 3, 3)]


def test_no_mistakes_are_a_picture_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, found = shown(monkeypatch, given([[2.0, 0.0]], [0], images(1)))
    assert texts == ["No mistakes in 1 example"] and found == []


@pytest.mark.parametrize("label, logit", [(-100, 0.0), (1, float("nan"))])
def test_no_label_or_no_probability_is_no_mistake(label: int, logit: float) -> None:
    one = given([[logit, 5.0]], [label], images(1))
    assert drawn(ImageMistakes(), [one], id2label=NAMES) == []


def test_long_names_are_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {0: "golden retriever", 1: "automobile"}
    texts, _ = shown(monkeypatch, FIRST, id2label=names)
    assert "auto…bile\n→ gold…ever\n88%" in texts


def test_only_images_with_one_label_are_shown() -> None:
    labels, pixels = torch.tensor([0, 1]), torch.zeros(2, 3, 4, 4)
    cases = {
        "images": (batch(torch.zeros(2, 2), labels, pixel_values=pixels), True),
        "no images": (batch(torch.zeros(2, 2), labels), False),
        "regression": (batch(torch.zeros(2, 1), labels.float(), pixel_values=pixels), False),
        "segmentation": (batch(torch.zeros(2, 5, 4, 4), labels, pixel_values=pixels), False),
    }
    for first, applies in cases.values():
        assert ImageMistakes().applies(evaluation(first)) is applies


def test_a_batch_is_kept_without_looking_at_its_values() -> None:
    one = on_meta(batch(torch.zeros(40, 2), torch.zeros(40).long(), pixel_values=images(40)))
    kept = ImageMistakes().batch(one, evaluation(one))
    assert kept.examples["pixels"].shape == (16, 4)
