"""Chooses the storage of a run directory, local or on an object store."""

from tbtrainer.event_file.local_storage import LocalStorage
from tbtrainer.event_file.names import is_remote
from tbtrainer.event_file.remote_storage import RemoteStorage
from tbtrainer.event_file.storage_protocol import Storage


def storage_of(directory: str) -> Storage:
    """Returns the storage of a run directory: a local path, or a URL that fsspec knows."""
    return RemoteStorage(directory) if is_remote(directory) else LocalStorage(directory)
