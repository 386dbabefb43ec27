"""Writes to places: files are copied, written and deleted, on stores with the tries that reading has."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import StoreError
from trainer.storage import Place, StorePath, attempt, file_system

if TYPE_CHECKING:
    from pyarrow import NativeFile, fs

_CHUNK_BYTES = 8 << 20
# What a store copies within itself, in one request, up to a size.
_COPIES_ITSELF = ("s3", "gcs")
_MOST_COPIED_BYTES = 4 << 30


def copy_file(source: Place, target: Place, stop: threading.Event) -> None:
    """Copy a file between places. A copy that was broken off may be there with fewer bytes.

    Args:
        source: file.
        target: file to make or to replace; its folder is made where there are folders.
        stop: ends the copying between two chunks of 8 MiB, and the waiting between tries.

    Raises:
        FileNotFoundError: the source is missing.
        StoreError: a store cannot be reached or refuses access, or `stop` was set.
        OSError: a local file cannot be read or written.
    """

    def copied() -> None:
        filesystem, path = file_system(source)
        if _one_store(filesystem, path, target):
            filesystem.copy_file(path, file_system(target)[1])
            return
        with filesystem.open_input_stream(path) as content, _new_file(target) as copy:
            while chunk := content.read(_CHUNK_BYTES):
                if stop.is_set():
                    raise StoreError("the copying was stopped", where=str(target))
                copy.write(chunk)

    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        attempt(source, copied, stop=stop)
    else:
        attempt(target, copied, detail=f"from {source}", writing=True, stop=stop)


def write_text(place: StorePath, text: str) -> None:
    """Write a small UTF-8 file.

    Raises:
        StoreError: the store cannot be written.
    """

    def written() -> None:
        with _new_file(place) as file:
            file.write(text.encode("utf-8"))

    attempt(place, written, writing=True)


def delete(place: StorePath, *, folder: bool = False) -> None:
    """Delete a file, or a folder and all below it; one that is not there is no error.

    Raises:
        StoreError: the store cannot be written.
    """

    def deleted() -> None:
        filesystem, path = file_system(place)
        try:
            (filesystem.delete_dir if folder else filesystem.delete_file)(path)
        except FileNotFoundError:
            return

    attempt(place, deleted, writing=True)


def _one_store(filesystem: fs.FileSystem, path: str, target: Place) -> bool:
    """Return whether a file need not come to this machine to be copied."""
    if filesystem.type_name not in _COPIES_ITSELF or not filesystem.equals(file_system(target)[0]):
        return False
    size: int | None = filesystem.get_file_info(path).size
    return size is not None and size <= _MOST_COPIED_BYTES


def _new_file(place: Place) -> NativeFile:
    filesystem, path = file_system(place)
    try:
        return filesystem.open_output_stream(path)
    except FileNotFoundError:  # Object stores know no folders; HDFS and SFTP do.
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        return filesystem.open_output_stream(path)
