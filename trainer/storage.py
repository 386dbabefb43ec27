"""Where files lie: a text becomes a place on this machine or on an object store, and is read from there.

`store_listing` lists such places, `store_writing` writes to them, `store_clients` connects to them.

| text | read through |
|---|---|
| a path, `file:///...`, `dbfs:/Volumes/...`, `dbfs:/...` (as `/dbfs/...`) | this machine's file system |
| `s3://`, `s3a://`, `s3n://`, `gs://`, `gcs://`, `hdfs://`, `viewfs://` | pyarrow.fs |
| any other URL (`abfs://`, `az://`, `oci://`, ...) | fsspec, with the package that it names for this scheme |

Credentials never stand in a URL: the stores' clients take them from where they always do. For S3 that is the
AWS_* variables or profile, here together with AWS_ENDPOINT_URL and AWS_REGION. Imports neither torch nor
Spark, and pyarrow only when a store is read.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trainer.errors import ConfigError, StoreError
from trainer.store_clients import S3_SCHEMES, client, s3_endpoint, s3_region, without_secrets

if TYPE_CHECKING:
    from pyarrow import NativeFile, fs

Result = TypeVar("Result")

ATTEMPTS = 5
"""Tries of a read from a store, or of a write to one."""
_FIRST_WAIT_SECONDS = 0.25
_LONGEST_WAIT_SECONDS = 8.0

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::[A-Za-z0-9+.-]+)*:/")
# What no further try mends, in the words of pyarrow's and fsspec's clients.
_REFUSED = re.compile(
    r"access.?denied|forbidden|unauthori[sz]ed|invalid.?access.?key|signature.?does.?not.?match|unrecognized.?client"
    r"|invalid.?client|expired.?token|invalid.?token|(status|response code):? ?40[13]",
    re.IGNORECASE,
)
_NO_BUCKET = re.compile(r"no.?such.?bucket|bucket ('[^']*' not found|does not exist)", re.IGNORECASE)


@dataclass(frozen=True)
class StorePath:
    """A file or folder on a store; joins with `/` as a `Path` does.

    Attributes:
        url: its URL, without a slash at the end.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> StorePath:
        return StorePath(f"{self.url}/{name}")

    @property
    def scheme(self) -> str:
        """Return the part before `://`, in lower case."""
        return self.url.partition("://")[0].lower()

    @property
    def bucket(self) -> str:
        """Return the bucket, container or host."""
        return self.url.partition("://")[2].partition("/")[0]

    def absolute(self) -> StorePath:
        """Return the place itself: a URL is absolute."""
        return self


Place = Path | StorePath


def local_path(text: str) -> str | None:
    """Return the path behind a text that this machine can open, else None."""
    if text.startswith("file:"):
        return re.sub(r"^file:/*", "/", text)
    if text.startswith("dbfs:/Volumes/"):
        return text.removeprefix("dbfs:")
    if text.startswith("dbfs:/"):
        return "/dbfs/" + text.removeprefix("dbfs:/").lstrip("/")
    return None if _URL.match(text) else text


def as_place(text: str | Place) -> Place:
    """Return the place that a text names.

    Raises:
        ConfigError: a URL has no bucket, holds a password, or came as a `Path`, which drops a slash of `://`.
    """
    if isinstance(text, StorePath):
        return text
    path = local_path(str(text))
    if path is not None:
        return Path(path)
    place = StorePath(str(text).rstrip("/"))
    user, at, _ = place.bucket.rpartition("@")
    if at and ":" in user:
        raise ConfigError(
            "a URL must not hold credentials: it is written to logs and run folders",
            where=f"{place.scheme}://...@{place.bucket.rpartition('@')[2]}",
            fixes=[_credentials_fix(place.scheme)],
        )
    if not place.bucket:
        scheme = place.scheme.partition(":")[0]
        raise ConfigError(
            "a URL is a text of this form", where=str(text), allowed=f"{scheme}://BUCKET/PATH, not as a Path"
        )
    return place


def as_local(text: str | Place, what: str) -> Path:
    """Return the place as a `Path`, where `what` (for the message) must lie on a file system.

    Raises:
        ConfigError: it is a URL of a store.
    """
    place = as_place(text)
    if isinstance(place, StorePath):
        raise ConfigError(
            f"{what} must lie on a file system that this machine has mounted, not on a store",
            where=str(place),
            fixes=["write to a local or shared folder, and copy it to the store afterwards"],
        )
    return place


def file_system(place: Place) -> tuple[fs.FileSystem, str]:
    """Return the file system of a place, and the path inside it.

    Raises:
        ConfigError: no store is known by the scheme, or a package for it is missing.
    """
    return client(place if isinstance(place, Path) else place.url)


def open_input(place: Place) -> NativeFile:
    """Open a file for reading at any offset: one try, whose errors are for `attempt`."""
    filesystem, path = file_system(place)
    return filesystem.open_input_file(path)


def read_text(place: Place) -> str:
    """Return the content of a small UTF-8 file.

    Raises:
        FileNotFoundError: it is missing.
        StoreError: the store cannot be read.
    """
    if isinstance(place, Path):
        return place.read_text(encoding="utf-8")

    def content() -> bytes:
        with open_input(place) as file:
            found: bytes = file.read()
            return found

    return attempt(place, content).decode("utf-8")


def exists(place: Place) -> bool:
    """Return whether there is a file or folder.

    Raises:
        StoreError: the store cannot be read.
    """

    def found() -> bool:
        filesystem, path = file_system(place)
        kind: str = filesystem.get_file_info(path).type.name
        return kind != "NotFound"

    return attempt(place, found)


def list_files(folder: Place) -> dict[str, int]:
    """Return the bytes of every file below a folder, by its path relative to it; empty where it is missing.

    Raises:
        StoreError: the store cannot be read.
    """

    def listed() -> dict[str, int]:
        from pyarrow import fs

        filesystem, path = file_system(folder)
        selector = fs.FileSelector(path, allow_not_found=True, recursive=True)
        found = filesystem.get_file_info(selector)
        start = len(path) + 1
        return {info.path[start:]: info.size for info in found if info.type == fs.FileType.File}

    return attempt(folder, listed)


def local_copy(place: Place, folder: Path) -> Path:
    """Copy a file or folder of a store into a local folder, and return the copy; a local place as it is.

    Raises:
        FileNotFoundError: it is missing.
        StoreError: the store cannot be read.
    """
    if isinstance(place, Path):
        return place
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / place.url.rpartition("/")[2]

    def copied() -> Path:
        from pyarrow import fs

        filesystem, path = file_system(place)
        if filesystem.get_file_info(path).type == fs.FileType.Directory:
            copy.mkdir(exist_ok=True)  # copy_files makes the folders below it alone
        fs.copy_files(
            path, str(copy), source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem()
        )
        return copy

    return attempt(place, copied)


def attempt(
    place: Place,
    call: Callable[[], Result],
    attempts: int = ATTEMPTS,
    *,
    detail: str = "",
    writing: bool = False,
    stop: threading.Event | None = None,
) -> Result:
    """Call, and call again where a store failed in a way that may pass; waits grow from 0.25 to 8 s.

    Args:
        place: what is read or written, for the message; local places get one try.
        call: does it.
        attempts: tries.
        detail: what of it, for the message.
        writing: whether it is written.
        stop: ends the waiting.

    Raises:
        FileNotFoundError: it is missing.
        StoreError: access is refused, or the last try failed.
    """
    if isinstance(place, Path):
        return call()
    stop, wait = stop or threading.Event(), _FIRST_WAIT_SECONDS
    for number in range(1, attempts + 1):
        try:
            return call()
        except (FileNotFoundError, StoreError, ConfigError):
            raise
        except Exception as error:  # fsspec's clients raise whatever their HTTP library does
            if number == attempts or _is_final(place, error) or stop.wait(wait):
                raise _failed(place, error, number, detail, writing) from error
        wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
    raise AssertionError("attempts is above 0")


def _is_final(place: StorePath, error: Exception) -> bool:
    # File names must not be taken for reasons.
    text = str(error).replace(place.url.partition("://")[2].partition("/")[2] or "/", "")
    return isinstance(error, PermissionError) or bool(_REFUSED.search(text) or _NO_BUCKET.search(text))


def _failed(place: StorePath, error: Exception, tries: int, detail: str, writing: bool) -> StoreError:
    text = str(error)
    if _NO_BUCKET.search(text):
        what, fixes = (
            f"there is no bucket {place.bucket!r}",
            ["check the bucket's name", endpoint_fix(place)],
        )
    elif _is_final(place, error):
        what = f"the store refuses access to bucket {place.bucket!r}"
        rights = "listing, reading, writing and deleting in" if writing else "listing and reading"
        fixes = [_credentials_fix(place.scheme), f"allow {rights} bucket {place.bucket!r}"]
    else:
        done = "written" if writing else "read"
        what = f"the store cannot be {done}: {tries} {'tries' if tries > 1 else 'try'} failed"
        fixes = [endpoint_fix(place), *([] if writing else ["raise data.remote_attempts"])]
    where = f"{place}, {detail}" if detail else str(place)
    return StoreError(what, where=where, got=without_secrets(error), fixes=fixes)


def _credentials_fix(scheme: str) -> str:
    if scheme in S3_SCHEMES:
        names = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN (or AWS_PROFILE)"
        return f"check {names} on every host"
    return f"check the credentials that {scheme}:// takes from the environment on every host"


def endpoint_fix(place: StorePath) -> str:
    """Return what to check where a store is not what it should be."""
    if place.scheme not in S3_SCHEMES:
        return "check the network and the store's endpoint"
    endpoint, region = s3_endpoint(), s3_region()
    named = (
        f"AWS_ENDPOINT_URL ({endpoint.hostname}:{endpoint.port})"
        if endpoint
        else "AWS_ENDPOINT_URL (not set)"
    )
    return f"check the network, {named} and AWS_REGION ({region or 'not set'})"
