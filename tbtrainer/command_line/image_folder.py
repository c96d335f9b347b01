"""A new folder with the pictures of a run as files."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tbtrainer.command_line.exit_codes import UsageError
from tbtrainer.reading import TableChunk
from tbtrainer.redaction import redacted_name, shown

# How the bytes of a picture begin, and the end of its name.
_FORMATS = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"GIF8", "gif"),
    (b"RIFF", "webp"),
    (b"BM", "bmp"),
)
_LONGEST_NAME = 100
_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+")


@contextmanager
def new_folder(path: str) -> Iterator[str]:
    """Yields the name under which a folder is filled. It gets its own name when it is complete.

    Raises:
        UsageError: The name is taken.
        OSError: The folder cannot be made.
    """
    if os.path.lexists(path):
        raise UsageError(f"{shown(path)} exists; name a folder that does not exist yet.")
    part = f"{path.rstrip(os.sep)}.{os.getpid()}.part"
    os.mkdir(part)
    try:
        yield part
        os.rename(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def with_files(chunks: Iterable[TableChunk], folder: str) -> Iterator[TableChunk]:
    """Writes each picture into a folder, and yields the rows with the name of its file.

    A name is the tag, with `_` for other characters than letters, digits, `.`, `_` and `-`, and the
    step, as in `eval_confusion_matrix-500.png`. A name that is taken, as by another picture of the
    same step, is followed by `-2` and so on.

    Args:
        chunks: Rows of the table of images.
        folder: An empty folder.

    Raises:
        OSError: A picture cannot be read or written.
    """
    latest, number = "", 0
    for chunk in chunks:
        columns = dict(chunk.columns)
        files: list[str] = []
        stamps = zip(columns["tag"].tolist(), columns["step"].tolist(), strict=True)
        for (tag, step), picture in zip(stamps, columns.pop("image"), strict=True):
            name = f"{_file_stem(chunk.names[tag])}-{step}"
            number = number + 1 if name == latest else 1
            latest = name
            file, number = _written(folder, name, number, picture.read())
            files.append(file)
        yield TableChunk(chunk.names, {**columns, "file": files})


def _written(folder: str, name: str, number: int, data: bytes) -> tuple[str, int]:
    """Writes a file under the first name that is free; returns the name and its number."""
    end = next((end for begin, end in _FORMATS if data.startswith(begin)), "bin")
    while True:
        file = f"{name}.{end}" if number == 1 else f"{name}-{number}.{end}"
        try:
            with open(os.path.join(folder, file), "xb") as opened:
                opened.write(data)
            return file, number
        except FileExistsError:
            number += 1


def _file_stem(tag: str) -> str:
    """Returns a tag as the beginning of a file's name, in no other folder and not hidden."""
    return _OTHER_CHARACTERS.sub("_", redacted_name(tag))[:_LONGEST_NAME].lstrip(".-") or "image"
