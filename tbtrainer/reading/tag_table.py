"""The tags of a run: numbers for their names, and the metadata of each."""

from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import SummaryMetadata

from tbtrainer.reading import wire
from tbtrainer.reading.batch import Batch

# By name of the plugin: the kind of a tag whose values are tensors.
_KIND_OF_PLUGIN = {
    "scalars": "scalar",
    "histograms": "histogram",
    "images": "image",
    "audio": "audio",
    "text": "text",
    "pr_curves": "pr_curve",
    "hparams": "hparams",
}
_KIND_OF_FIELD = {
    wire.SIMPLE_VALUE: "scalar",
    wire.IMAGE: "image",
    wire.HISTOGRAM: "histogram",
    wire.AUDIO: "audio",
}


@dataclass(frozen=True)
class TagMetadata:
    """What the metadata of a tag says.

    Attributes:
        plugin: The plugin of TensorBoard that shows the tag; empty if unknown.
        description: In Markdown; empty if there is none.
    """

    plugin: str = ""
    description: str = ""


class TagTable:
    """Numbers for the tags of a run, in the order in which they are met.

    Attributes:
        names: The tags, by number.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[bytes, int] = {}
        self._by_name: dict[str, int] = {}
        self._metadata: dict[int, TagMetadata] = {}

    def numbers(self, batch: Batch) -> NDArray[np.int32]:
        """Returns the number of each tag of a batch. Unknown tags get the next numbers."""
        return np.array([self._number(name) for name in batch.tags], dtype=np.int32)

    def known_numbers(self, batch: Batch) -> NDArray[np.int32]:
        """Returns the number of each tag of a batch; -1 for unknown tags."""
        return np.array([self._numbers.get(name, -1) for name in batch.tags], dtype=np.int32)

    def add_metadata(self, batch: Batch, numbers: NDArray[np.int32]) -> None:
        """Keeps the first metadata of each tag: writers may leave it out at later values."""
        for number, data in zip(numbers.tolist(), batch.metadata, strict=True):
            if data is not None and number not in self._metadata:
                self._metadata[number] = _parsed(data)

    def metadata(self, number: int) -> TagMetadata:
        """Returns the metadata of a tag; an empty one if it has none."""
        return self._metadata.get(number, TagMetadata())

    def kind(self, number: int, field: int) -> str:
        """Returns the kind of a value, such as "scalar" or "histogram".

        Args:
            number: Its tag.
            field: The kind of its row; see `tbtrainer.reading.wire`.

        Returns:
            For a tensor, the kind of its tag's plugin. The name of the plugin, if it is another
            one; "tensor" if none is known.
        """
        if field in _KIND_OF_FIELD:
            return _KIND_OF_FIELD[field]
        plugin = self.metadata(number).plugin
        return _KIND_OF_PLUGIN.get(plugin, plugin or "tensor")

    def are_scalars(self) -> NDArray[np.bool_]:
        """Returns for each tag whether a tensor of one number is a scalar. bool, shape (tags,)."""
        plugins = [self.metadata(number).plugin for number in range(len(self.names))]
        return np.array([plugin == "scalars" for plugin in plugins], dtype=bool)

    def _number(self, name: bytes) -> int:
        number = self._numbers.get(name)
        if number is None:
            text = name.decode(errors="replace")
            number = self._by_name.setdefault(text, len(self.names))
            if number == len(self.names):
                self.names.append(text)
            self._numbers[name] = number
        return number


def _parsed(data: bytes) -> TagMetadata:
    try:
        metadata = SummaryMetadata.FromString(data)
    except DecodeError:
        return TagMetadata()
    return TagMetadata(metadata.plugin_data.plugin_name, metadata.summary_description)
