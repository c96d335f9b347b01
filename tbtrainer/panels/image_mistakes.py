"""`ImageMistakes`: the images whose predictions are wrong with the highest confidence."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbtrainer.panels.classified import classified
from tbtrainer.panels.columns import on_device
from tbtrainer.panels.counting import examples_line
from tbtrainer.panels.image_pixels import has_images, small_images
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.pictures import INK, drawable_name, picture, shortened, write_title
from tbtrainer.panels.plots import AS_IT_IS
from tbtrainer.panels.tasks import class_label, is_single_label
from tbtrainer.records import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 8
# Inches of a row of images with their texts, and of the title.
_ROW, _TITLE = 0.8, 0.42


class ImageMistakes(Panel):
    """Shows the most confident mistakes of an image classifier, at most 16.

    The images are the inputs of the model, brought back to colours by the mean and the standard
    deviation of the trainer's image processor, and at most 64 pixels wide and high. Above each one
    are its label, and its prediction with its probability.
    """

    name = "image_mistakes"
    most_examples = 16

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether it is a classification of images."""
        return (
            is_single_label(evaluation)
            and evaluation.first_batch is not None
            and has_images(evaluation.first_batch)
        )

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns small copies of the most confident mistakes of the batch."""
        found = classified(batch)
        worst, confidence = found.worst(self.most_examples)
        images = small_images(
            batch.inputs["pixel_values"].index_select(0, worst), evaluation.processing_class
        )
        # Flat, because images of different batches may have different sizes.
        shape = on_device(np.array([images.shape[1:]]), images.device)
        return Kept(
            examples={
                "pixels": images.flatten(1),
                "shape": shape.expand(len(worst), 3),
                "label": found.labels[worst],
                "prediction": found.predictions[worst],
            },
            priority=confidence,
            totals={"counted": found.counted.sum(), "wrong": found.wrong.sum()},
        )

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Image]:
        """Returns the picture, the most confident mistake first; none if nothing is counted."""
        counted, wrong = int(kept.totals["counted"]), int(kept.totals["wrong"])
        if counted == 0:
            return []
        among = examples_line(counted, kept.seen)
        tag = evaluation.tag(self.name)
        if wrong == 0:
            title = f"No mistakes in {among}"
            return [picture(tag, lambda figure: write_title(figure, title), _TITLE)]
        images = _images(kept)
        captions = list(_captions(kept, evaluation))
        shown = "All" if len(images) == wrong else f"The {len(images)} most confident of"
        title = f"{shown} {wrong:,} mistakes in {among}\nlabel → prediction, its probability"
        height = _TITLE + _ROW * math.ceil(len(images) / _COLUMNS)
        return [picture(tag, lambda figure: _draw(figure, images, captions, title), height)]


def _images(kept: KeptOfAllRanks) -> list[NDArray[np.uint8]]:
    """Returns the images that were kept, each of shape (height, width, 3)."""
    images = []
    for pixels, shape in zip(kept.examples["pixels"], kept.examples["shape"], strict=True):
        # A copy, because matplotlib 3.9 does not know the dtype of an array that was pickled.
        channels = pixels[: math.prod(shape)].reshape(shape).astype(np.uint8)
        images.append(np.repeat(channels, 3 // len(channels), axis=0).transpose(1, 2, 0))
    return images


def _captions(kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> Any:
    """Returns a text of three lines per image."""
    assert kept.priority is not None
    columns = (kept.examples["label"], kept.examples["prediction"], kept.priority)
    for label, prediction, confidence in zip(*columns, strict=True):
        true, found = (
            shortened(drawable_name(class_label(evaluation, int(number)), int(number)), 9)
            for number in (label, prediction)
        )
        yield f"{true}\n→ {found}\n{confidence:.0%}"


def _draw(
    figure: "Figure", images: list[NDArray[np.uint8]], captions: list[str], title: str
) -> None:
    write_title(figure, title)
    grid = figure.subplots(math.ceil(len(images) / _COLUMNS), _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.set_axis_off()
    for axes, image, caption in zip(grid.flat, images, captions, strict=False):
        axes.imshow(image, aspect="equal", **AS_IT_IS)
        axes.set_title(caption, loc="center", y=1.0, pad=2, fontsize=6.0, color=INK)
