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
            field: The field that holds it; see `tbtrainer.reading.wire`.

        Returns:
            For a tensor, the kind of its tag's plugin. The name of the plugin, if it is another
            one; "tensor" if none is known.
        """
        if field in _KIND_OF_FIELD:
            return _KIND_OF_FIELD[field]
        plugin = self.metadata(number).plugin
        return _KIND_OF_PLUGIN.get(plugin, plugin or "tensor")

    def are_scalars(self, tag: NDArray[np.int32], field: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Returns for each value whether it is a scalar. All arrays have the shape (values,).

        Args:
            tag: Numbers of the tags.
            field: The fields that hold the values; see `tbtrainer.reading.wire`.
        """
        is_number = field == wire.NUMBER
        found: NDArray[np.bool_] = field == wire.SIMPLE_VALUE
        if is_number.any():
            of_plugin = np.zeros(len(self.names), dtype=bool)
            for number in np.flatnonzero(np.bincount(tag[is_number])).tolist():
                of_plugin[number] = self.kind(number, wire.NUMBER) == "scalar"
            found[is_number] = of_plugin[tag[is_number]]
        return found

    def are_of_kind(
        self, tag: NDArray[np.int32], field: NDArray[np.uint8], kind: str
    ) -> NDArray[np.bool_]:
        """Returns for each value whether it is of a kind, such as "histogram".

        Args:
            tag: As in `are_scalars`.
            field: As in `are_scalars`.
            kind: A kind; see `kind`.
        """
        pairs = tag.astype(np.int64) * wire.FIELDS + field
        chosen = [
            pair
            for pair in np.unique(pairs).tolist()
            if self.kind(*divmod(pair, wire.FIELDS)) == kind
        ]
        return np.isin(pairs, chosen)

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
