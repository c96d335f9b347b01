"""What reading a run yields: values in chunks, values one by one, and a summary of each tag."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScalarChunk:
    """Consecutive scalars of a run.

    Attributes:
        names: The tags of the run; `tag` is an index into them. The same list in all chunks.
        tag: int32, shape (scalars,).
        step: int64, shape (scalars,).
        wall_time: When each was written, in seconds since 1970. float64, shape (scalars,).
        value: float64, shape (scalars,).
        session: Index into `Run.sessions`. int32, shape (scalars,).
    """

    names: list[str]
    tag: NDArray[np.int32]
    step: NDArray[np.int64]
    wall_time: NDArray[np.float64]
    value: NDArray[np.float64]
    session: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.tag)


@dataclass(frozen=True)
class TableChunk:
    """Consecutive rows of one of the frames of a run, without pandas.

    Attributes:
        names: The tags of the run; the column `tag` has indices into it. The same list in all
            chunks.
        columns: By name, in the order of the frame. A column is an array of shape (rows,), or a
            list of as many texts, arrays or `StoredImage`s.
    """

    names: list[str]
    columns: dict[str, Any]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True)
class Record:
    """One value of a run: what `Run.iter_records` yields.

    Attributes:
        tag: Its tag.
        kind: "scalar", "histogram", "text", "image", "pr_curve", "hparams", "audio" or "tensor".
            For what another plugin of TensorBoard shows, the name of the plugin.
        step: Its step.
        wall_time: When it was written, in seconds since 1970.
        session: Index into `Run.sessions`.
        value: A `float` for a scalar, a `str` for a text, a `HistogramValue`, an `ImageValue` or a
            `PrCurveValue`, and a list of bytes for audio. For other kinds an array if it is a
            tensor of numbers, a list of bytes if it is one of strings, and else the content of the
            plugin's metadata as bytes. `None` if the bytes are not what the kind says.
    """

    tag: str
    kind: str
    step: int
    wall_time: float
    session: int
    value: Any


@dataclass(frozen=True)
class TagInfo:
    """What a run has under a tag.

    Attributes:
        kind: As in `Record`. If a tag has values of several kinds, the one with the most values.
        count: How many values there are.
        first_step: Step of the first value read.
        last_step: Step of the last value read.
        description: What the tag means, in Markdown; empty if the writer did not say it.
    """

    kind: str
    count: int
    first_step: int
    last_step: int
    description: str
