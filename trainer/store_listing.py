"""What lies at a URL of a store: a file, a folder with all below it, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.errors import StoreError
from trainer.storage import StorePath, attempt, endpoint_fix, file_system

if TYPE_CHECKING:
    from pyarrow import fs


@dataclass(frozen=True)
class StoredFile:
    """A file on a store.

    Attributes:
        size: bytes.
        changed: seconds since 1970 of its last change; None where the store does not tell.
    """

    size: int
    changed: float | None


def look_up(place: StorePath) -> StoredFile | dict[str, StoredFile] | None:
    """Return the file at a URL; of a folder all files below it, by their path in it; None where nothing is.

    Raises:
        StoreError: there is no such bucket, or the store cannot be read or refuses access.
    """

    def found() -> StoredFile | dict[str, StoredFile] | None:
        from pyarrow import fs

        filesystem, path = file_system(place)
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            _require_bucket(filesystem, place)
            return None
        if info.type == fs.FileType.File:
            return _stored(info)
        below = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        start = len(path.rstrip("/")) + 1
        return {each.path[start:]: _stored(each) for each in below if each.type == fs.FileType.File}

    return attempt(place, found)


def names_in(folder: StorePath) -> list[str]:
    """Return the names of the files and folders of a folder; empty where it is missing.

    Raises:
        StoreError: the store cannot be read.
    """

    def listed() -> list[str]:
        from pyarrow import fs

        filesystem, path = file_system(folder)
        return [
            each.base_name for each in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
        ]

    return attempt(folder, listed)


def _stored(info: fs.FileInfo) -> StoredFile:
    return StoredFile(info.size, info.mtime.timestamp() if info.mtime is not None else None)


def _require_bucket(filesystem: fs.FileSystem, place: StorePath) -> None:
    """Check that the bucket is there: pyarrow finds nothing in one that is not, and says no more."""
    bucket = file_system(StorePath(f"{place.scheme}://{place.bucket}"))[1].rstrip("/")
    if bucket and filesystem.get_file_info(bucket).type.name == "NotFound":
        raise StoreError(
            f"there is no bucket {place.bucket!r}",
            where=str(place),
            fixes=["check the bucket's name", endpoint_fix(place)],
        )
