"""Small images from the inputs of a model."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import ViTImageProcessor

from tbtrainer.panels.image_pixels import MOST_SIDE, has_images, small_images
from tests.panel_evaluations import batch

COLOURS = np.random.default_rng(0).integers(0, 256, (3, 12, 8, 3), dtype=np.uint8)


def processor(**changes: Any) -> SimpleNamespace:
    values = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    return SimpleNamespace(
        **{**values, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, **changes}
    )


@pytest.mark.parametrize("change", [{}, {"do_normalize": False}, {"image_mean": [0.3, 0.4, 0.6]}])
def test_a_processor_is_undone(change: dict[str, Any]) -> None:
    made = ViTImageProcessor(size={"height": 12, "width": 8}, **change)
    pictures = [Image.fromarray(picture) for picture in COLOURS]
    pixels = made(pictures, return_tensors="pt")["pixel_values"]
    assert np.array_equal(small_images(pixels, made).numpy(), COLOURS.transpose(0, 3, 1, 2))


def test_a_processor_inside_another_is_found() -> None:
    outer = SimpleNamespace(image_processor=processor())
    shown = small_images(torch.zeros(1, 3, 2, 2), outer)
    assert (shown == 128).all()


@pytest.mark.parametrize("mean", [0.5, [0.5], (0.5,)])
def test_one_mean_is_that_of_every_channel(mean: Any) -> None:
    shown = small_images(torch.ones(1, 3, 2, 2), processor(image_mean=mean))
    assert (shown == 191).all()


@pytest.mark.parametrize(
    "other",
    [
        None,
        object(),
        processor(do_rescale=False),
        processor(rescale_factor=1 / 127.5),
        processor(image_mean=None),
        processor(image_mean=[0.5, 0.5]),
        processor(image_std="much"),
    ],
)
def test_without_a_known_processor_each_image_has_its_range(other: Any) -> None:
    pixels = torch.tensor([[-3.0, 1.0, 5.0], [10.0, 10.0, 20.0]]).reshape(2, 1, 1, 3)
    shown = small_images(pixels.expand(2, 3, 1, 3), other)
    assert shown[:, 0, 0].tolist() == [[0, 128, 255], [0, 0, 255]]


def test_an_image_of_one_value_is_dark() -> None:
    assert (small_images(torch.full((1, 1, 2, 2), 7.0), None) == 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_no_fault(value: float) -> None:
    pixels = torch.zeros(1, 3, 2, 2)
    pixels[0, 0, 0, 0] = value
    for given in (None, processor()):
        assert small_images(pixels, given).shape == (1, 3, 2, 2)


@pytest.mark.parametrize(
    "height, width, small", [(128, 128, (64, 64)), (100, 300, (21, 64)), (2000, 1, (64, 1))]
)
def test_large_images_keep_their_proportion(
    height: int, width: int, small: tuple[int, int]
) -> None:
    shown = small_images(torch.zeros(2, 1, height, width), None)
    assert shown.shape == (2, 1, *small) and max(small) == MOST_SIDE


def test_a_small_pixel_is_the_mean_of_those_it_replaces() -> None:
    pixels = torch.rand(1, 3, 128, 256, generator=torch.Generator().manual_seed(0))
    shown = small_images(pixels, processor(do_normalize=False))
    expected = pixels.reshape(1, 3, 32, 4, 64, 4).mean(dim=(3, 5)) * 255
    assert (shown - expected).abs().max() <= 0.501


def test_half_precision_is_shown_too() -> None:
    pixels = torch.linspace(0, 1, 4).reshape(1, 1, 2, 2)
    expected = small_images(pixels, None).int()
    for dtype in (torch.float16, torch.bfloat16):
        assert (small_images(pixels.to(dtype), None).int() - expected).abs().max() <= 1


def test_pixels_of_a_batch_stay_as_they_are() -> None:
    pixels = torch.randn(2, 3, 100, 100)
    before = pixels.clone()
    small_images(pixels, processor())
    assert torch.equal(pixels, before)


@pytest.mark.parametrize(
    "pixels, found",
    [
        (torch.zeros(2, 3, 4, 4), True),
        (torch.zeros(2, 1, 4, 4, dtype=torch.bfloat16), True),
        (torch.zeros(2, 4, 4, 4), False),
        (torch.zeros(2, 3, 4), False),
        (torch.zeros(2, 8, 3, 4, 4), False),
        (torch.zeros(5, 3, 4, 4), False),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), False),
        (None, False),
    ],
)
def test_one_image_per_example_is_shown(pixels: Tensor | None, found: bool) -> None:
    given = batch(torch.zeros(2, 3), torch.tensor([0, 1]), pixel_values=pixels)
    assert has_images(given) is found
