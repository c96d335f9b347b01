"""The files of TensorBoard's Projector in a run directory."""

import io
import re
from functools import partial

import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from tbtrainer.event_file.storage import storage_of
from tbtrainer.records import Embedding
from tbtrainer.redaction import redacted
from tbtrainer.run.time_limit import within

# TensorBoard looks for a file of this name.
CONFIG = "projector_config.pbtxt"
# The longest that the training's background thread waits for the file system.
WRITE_SECONDS = 30.0
_MOST_CONFIG_BYTES = 2**20
_MOST_SETS = 100


class Projector:
    """Writes vectors and their labels where the Projector finds them.

    Each set has two files beside the event file, which its next vectors replace. Sets of other
    programs in the configuration are kept.

    Args:
        directory: The run directory, local or remote.
        file_mode: Permissions of local files, before the process's umask.
    """

    def __init__(self, directory: str, file_mode: int) -> None:
        self._directory = directory
        self._file_mode = file_mode
        self._is_hung = False

    def write(self, embedding: Embedding) -> None:
        """Writes a set of vectors, which replaces the earlier one of its tag.

        Raises:
            TimeoutError: The file system does not answer. Later sets are left out silently.
            Exception: The files cannot be written, or the configuration is no configuration.
        """
        if self._is_hung:
            return
        try:
            within(WRITE_SECONDS, self._write, embedding)
        except TimeoutError:
            self._is_hung = True
            raise

    def _write(self, embedding: Embedding) -> None:
        storage = storage_of(self._directory)
        storage.make()
        write = partial(storage.replace, mode=self._file_mode, sync=False)
        name = "projector_" + re.sub(r"\W+", "_", embedding.tag)
        numbers = io.BytesIO()
        np.savetxt(numbers, embedding.vectors, fmt="%.7g", delimiter="\t")
        write(f"{name}_vectors.tsv", numbers.getvalue())
        write(f"{name}_labels.tsv", _lines(embedding))
        config = ProjectorConfig()
        if CONFIG in storage.names():
            text_format.Parse(storage.read(CONFIG, _MOST_CONFIG_BYTES).decode(), config)
        others = [known for known in config.embeddings if known.tensor_name != embedding.tag]
        del config.embeddings[:]
        config.embeddings.extend(others[-_MOST_SETS + 1 :])
        config.embeddings.add(
            tensor_name=embedding.tag,
            tensor_path=f"{name}_vectors.tsv",
            metadata_path=f"{name}_labels.tsv",
        )
        write(CONFIG, text_format.MessageToString(config).encode())


def _lines(embedding: Embedding) -> bytes:
    """Returns one line per label. A tab or a line break in a label becomes a space."""
    lines = (re.sub(r"\s+", " ", str(redacted(label, ""))) for label in embedding.labels)
    return "".join(f"{line or '-'}\n" for line in lines).encode(errors="replace")
