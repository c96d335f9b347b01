"""Values of summaries as Python objects."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary

from tbtrainer.reading.histograms import HistogramValue, from_message, from_tensor
from tbtrainer.reading.tensors import UnreadableValue, array_of, strings_of

_PNG = b"\x89PNG\r\n\x1a\n"
# Width and height are smaller.
_MOST_PIXELS = 2**31


@dataclass(frozen=True)
class ImageValue:
    """The pictures of one tag at one step.

    Attributes:
        width: In pixels.
        height: In pixels.
        encoded: Each picture as the bytes of a PNG or another image file.
    """

    width: int
    height: int
    encoded: tuple[bytes, ...]


@dataclass(frozen=True)
class PrCurveValue:
    """Precision and recall at each threshold. All arrays are float64, shape (thresholds,).

    Attributes:
        thresholds: Equal steps from 0 to 1.
        true_positives: Counts at or above the threshold.
        false_positives: As above.
        true_negatives: Counts below the threshold.
        false_negatives: As above.
        precision: Share of the true ones among those found.
        recall: Share of those found among the true ones.
    """

    thresholds: NDArray[np.float64]
    true_positives: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    true_negatives: NDArray[np.float64]
    false_negatives: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def decoded(kind: str, data: bytes) -> Any:
    """Returns the value of a serialized `Summary.Value`.

    Args:
        kind: Its kind; see `TagTable.kind`.
        data: The serialized value.

    Returns:
        A `HistogramValue`, `ImageValue` or `PrCurveValue`, a `str` for a text, a list of bytes for
        audio. For hyper-parameters the content of the plugin's metadata as bytes. For other kinds
        an array if there is a tensor of numbers, a list of bytes if there is one of strings, and
        else the content of the metadata.

    Raises:
        UnreadableValue: The bytes are not what the kind says.
    """
    try:
        return _DECODERS.get(kind, _other)(Summary.Value.FromString(data))
    except DecodeError as error:
        raise UnreadableValue(f"a value of kind {kind} cannot be read: {error}") from None


def decoded_or_none(kind: str, data: bytes) -> Any:
    """Returns what `decoded` does; `None` if the bytes are not what the kind says."""
    try:
        return decoded(kind, data)
    except UnreadableValue:
        return None


def _histogram(value: Any) -> HistogramValue:
    if value.HasField("histo"):
        return from_message(value.histo)
    return from_tensor(array_of(value.tensor))


def _text(value: Any) -> str:
    lines = [text.decode(errors="replace") for text in strings_of(value.tensor)]
    return "\n".join(lines)


def _image(value: Any) -> ImageValue:
    if value.HasField("image"):
        image = value.image
        encoded = image.encoded_image_string
        width, height = _size(encoded) or (image.width, image.height)
        return ImageValue(width, height, (encoded,))
    strings = strings_of(value.tensor)
    if len(strings) < 2:
        raise UnreadableValue("a tensor of images has no width and height")
    try:
        width, height = int(strings[0]), int(strings[1])
    except ValueError:
        raise UnreadableValue("the width or height of an image is no number") from None
    if not (0 <= width < _MOST_PIXELS and 0 <= height < _MOST_PIXELS):
        raise UnreadableValue("the width or height of an image is no number of pixels")
    return ImageValue(width, height, tuple(strings[2:]))


def _size(encoded: bytes) -> tuple[int, int] | None:
    """Returns width and height of a PNG; `None` for another format."""
    if not encoded.startswith(_PNG) or len(encoded) < 24:
        return None
    width, height = struct.unpack(">II", encoded[16:24])
    return width, height


def _pr_curve(value: Any) -> PrCurveValue:
    rows = array_of(value.tensor)
    if rows.ndim != 2 or len(rows) != 6:
        raise UnreadableValue(f"a PR curve has the shape {rows.shape}")
    return PrCurveValue(
        np.linspace(0.0, 1.0, rows.shape[1]), *(row.astype(np.float64) for row in rows)
    )


def _audio(value: Any) -> list[bytes]:
    if value.HasField("audio"):
        return [value.audio.encoded_audio_string]
    return strings_of(value.tensor)


def _other(value: Any) -> Any:
    if not value.HasField("tensor"):
        return value.metadata.plugin_data.content
    try:
        return array_of(value.tensor)
    except UnreadableValue:
        return strings_of(value.tensor)


def _hparams(value: Any) -> bytes:
    return bytes(value.metadata.plugin_data.content)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "histogram": _histogram,
    "text": _text,
    "image": _image,
    "pr_curve": _pr_curve,
    "hparams": _hparams,
    "audio": _audio,
}
