"""The files of TensorBoard's Projector in a run directory."""

import hashlib
import io
import logging
import re
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from tbtrainer.event_file.storage import storage_of
from tbtrainer.event_file.storage_protocol import Storage
from tbtrainer.records import Embedding
from tbtrainer.redaction import redacted, redacted_text
from tbtrainer.run.time_limit import within

logger = logging.getLogger(__name__)

# TensorBoard looks for a file of this name.
CONFIG = "projector_config.pbtxt"
# The longest that the training's background thread waits for the file system.
WRITE_SECONDS = 30.0
_MOST_CONFIG_BYTES = 2**20
_MOST_SETS = 100


class Projector:
    """Writes vectors and their labels where the Projector finds them.

    The latest set of a tag is called `<tag>:<step>`, because TensorBoard keeps the vectors that it
    has read by the name of their set (tensorboard 2.21). Each set has two files of its own beside
    the event file. The configuration names them when both are complete. The files of the set before
    stay, because TensorBoard may be reading them; older ones are deleted. Sets of other programs in
    the configuration are kept.

    Args:
        directory: The run directory, local or remote.
        file_mode: Permissions of local files, before the process's umask.
    """

    def __init__(self, directory: str, file_mode: int) -> None:
        self._directory = directory
        self._file_mode = file_mode
        self._is_hung = False
        self._explained: set[str] = set()

    def write(self, embedding: Embedding, step: int) -> None:
        """Writes a set of vectors, which replaces the earlier one of its tag.

        A set without any number is left out with a warning, once per tag: TensorBoard's Projector
        would show no set of any run.

        Raises:
            TimeoutError: The file system does not answer. Later sets are left out silently.
            Exception: The files cannot be written, or the configuration is no configuration.
        """
        if self._is_hung:
            return
        if embedding.vectors.size == 0:
            self._explain_empty(embedding, step)
            return
        try:
            within(WRITE_SECONDS, self._write, embedding, step)
        except TimeoutError:
            self._is_hung = True
            raise

    def _explain_empty(self, embedding: Embedding, step: int) -> None:
        if embedding.tag not in self._explained:
            self._explained.add(embedding.tag)
            logger.warning(
                "The Projector does not show %s of step %d: its vectors have the shape %s, and "
                "TensorBoard fails on an empty set. Later ones that are empty are left out, too.",
                redacted_text(embedding.tag),
                step,
                embedding.vectors.shape,
            )

    def _write(self, embedding: Embedding, step: int) -> None:
        storage = storage_of(self._directory)
        storage.make()
        config = ProjectorConfig()
        if CONFIG in storage.names():
            text_format.Parse(storage.read(CONFIG, _MOST_CONFIG_BYTES).decode(), config)
        write = partial(storage.replace, mode=self._file_mode, sync=False)
        numbers = io.BytesIO()
        np.savetxt(numbers, embedding.vectors, fmt="%.7g", delimiter="\t")
        vectors, labels = numbers.getvalue(), _lines(embedding)
        prefix = _prefix(embedding.tag)
        stem = f"{prefix}_{step}_{_digest(vectors + labels)}"
        latest = {f"{stem}_vectors.tsv": vectors, f"{stem}_labels.tsv": labels}
        for name, content in latest.items():
            write(name, content)
        earlier = _replaced(config, embedding.tag, step, *latest)
        write(CONFIG, text_format.MessageToString(config).encode())
        _remove_others(storage, prefix, {*latest, *earlier})


def _prefix(tag: str) -> str:
    """Returns the beginning of the names of a tag's files. No other tag has the same."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", tag)[:64]
    return f"projector_{plain}_{_digest(tag.encode(errors='surrogatepass'))}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _replaced(config: Any, tag: str, step: int, vectors: str, labels: str) -> set[str]:
    """Puts a set into the configuration, and returns the files of the one that it replaces."""
    shown = tag.encode(errors="replace").decode()  # Half a surrogate has no UTF-8.
    is_of_tag = re.compile(rf"{re.escape(shown)}:-?\d+").fullmatch
    earlier = [known for known in config.embeddings if is_of_tag(known.tensor_name)]
    others = [known for known in config.embeddings if not is_of_tag(known.tensor_name)]
    files = {path for known in earlier for path in (known.tensor_path, known.metadata_path)}
    del config.embeddings[:]
    config.embeddings.extend(others[-_MOST_SETS + 1 :])
    config.embeddings.add(tensor_name=f"{shown}:{step}", tensor_path=vectors, metadata_path=labels)
    return files


def _remove_others(storage: Storage, prefix: str, kept: set[str]) -> None:
    """Removes the files of a tag's earlier sets."""
    is_of_tag = re.compile(rf"{re.escape(prefix)}_-?\d+_[0-9a-f]{{8}}_(vectors|labels)\.tsv")
    for name in storage.names():
        if is_of_tag.fullmatch(name) and name not in kept:
            # Every object store has exceptions of its own. The next set tries again.
            with suppress(Exception):
                storage.remove(name)


def _lines(embedding: Embedding) -> bytes:
    """Returns one line per label. A tab or a line break in a label becomes a space."""
    lines = (re.sub(r"\s+", " ", str(redacted(label, ""))) for label in embedding.labels)
    return "".join(f"{line or '-'}\n" for line in lines).encode(errors="replace")
