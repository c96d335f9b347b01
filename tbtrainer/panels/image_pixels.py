"""The pixels of images, from the inputs of a model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import PanelBatch

# Images are made smaller until both sides have at most so many pixels.
MOST_SIDE = 64


def has_images(batch: PanelBatch) -> bool:
    """Returns whether each example is one image, grey or in colours, in `pixel_values`."""
    pixels = batch.inputs.get("pixel_values")
    return (
        is_tensor(pixels)
        and pixels.is_floating_point()
        and pixels.dim() == 4
        and pixels.shape[0] == batch.size
        and pixels.shape[1] in (1, 3)
        and pixels[:1].numel() > 0
    )


def small_images(pixels: Tensor, processing_class: Any) -> Tensor:
    """Returns images as they were before the processor normalised them, and small.

    Without a processor that says how it normalises, each image is scaled from its smallest to its
    largest value. A pixel of a smaller image is the mean of those it stands for.

    Args:
        pixels: Floating, shape (images, channels, height, width).
        processing_class: Of the trainer.

    Returns:
        uint8, shape (images, channels, height, width), where height and width are at most
        `MOST_SIDE` and have the same proportion as before.
    """
    wide = pixels.to(torch.float32)
    height, width = wide.shape[2:]
    longest = max(height, width)
    if longest > MOST_SIDE:
        size = [max(1, round(side * MOST_SIDE / longest)) for side in (height, width)]
        wide = torch.nn.functional.interpolate(wide, size=size, mode="area")
    scaling = _scaling(processing_class, wide.shape[1])
    if scaling is None:
        low = wide.amin(dim=(1, 2, 3), keepdim=True)
        span = wide.amax(dim=(1, 2, 3), keepdim=True) - low
        shown = (wide - low) / torch.where(span > 0, span, 1.0)
    else:
        # One channel at a time, because a tensor of the means would have to reach the device.
        channels = zip(wide.unbind(dim=1), *scaling, strict=True)
        shown = torch.stack([channel * std + mean for channel, mean, std in channels], dim=1)
    return (shown.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)


def _scaling(processing_class: Any, channels: int) -> tuple[list[float], list[float]] | None:
    """Returns what a processor takes off each channel and divides it by; `None` if unknown."""
    processor = getattr(processing_class, "image_processor", processing_class)
    factor = getattr(processor, "rescale_factor", None)
    if not getattr(processor, "do_rescale", False) or not _is_byte(factor):
        return None
    if not getattr(processor, "do_normalize", False):
        return [0.0] * channels, [1.0] * channels
    mean = _per_channel(getattr(processor, "image_mean", None), channels)
    std = _per_channel(getattr(processor, "image_std", None), channels)
    return None if mean is None or std is None else (mean, std)


def _is_byte(factor: Any) -> bool:
    """Returns whether a factor brings 0 to 255 to 0 to 1."""
    return isinstance(factor, int | float) and abs(factor * 255 - 1) < 1e-3


def _per_channel(values: Any, channels: int) -> list[float] | None:
    if isinstance(values, int | float):
        values = [values]
    if not isinstance(values, Sequence) or len(values) not in (1, channels):
        return None
    return [float(value) for value in values] * (channels // len(values))
