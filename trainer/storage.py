"""Where files lie: a text becomes a place on this machine or on an object store, and is read from there.

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

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from trainer.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from pyarrow import NativeFile, fs

Result = TypeVar("Result")

ATTEMPTS = 5
"""Tries of a read from a store."""
_FIRST_WAIT_SECONDS = 0.25
_LONGEST_WAIT_SECONDS = 8.0

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::[A-Za-z0-9+.-]+)*:/")
_S3, _GCS, _HDFS = {"s3", "s3a", "s3n"}, {"gs", "gcs"}, {"hdfs", "viewfs"}
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
# What no further try mends, in the words of pyarrow's and fsspec's clients.
_REFUSED = re.compile(
    r"access.?denied|forbidden|unauthori[sz]ed|invalid.?access.?key|signature.?does.?not.?match|unrecognized.?client"
    r"|invalid.?client|expired.?token|invalid.?token|(status|response code):? ?40[13]",
    re.IGNORECASE,
)
_NO_BUCKET = re.compile(r"no.?such.?bucket|bucket does not exist", re.IGNORECASE)


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


def open_input(place: Place) -> NativeFile:
    """Open a file for reading at any offset: one try, whose errors are for `attempt`."""
    filesystem, path = _resolve(place)
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
        filesystem, path = _resolve(place)
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

        filesystem, path = _resolve(folder)
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

        filesystem, path = _resolve(place)
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
    stop: threading.Event | None = None,
) -> Result:
    """Call, and call again where a store failed in a way that may pass; waits grow from 0.25 to 8 s.

    Args:
        place: what is read, for the message; local places get one try.
        call: reads it.
        attempts: tries.
        detail: what of it is read, for the message.
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
                raise _failed(place, error, number, detail) from error
        wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
    raise AssertionError("attempts is above 0")


def without_secrets(error: BaseException) -> str:
    """Return the first line of an error's message, credentials blanked out."""
    text = (str(error).splitlines() or [""])[0] or type(error).__name__
    for name in _SECRETS:
        secret = os.environ.get(name)
        text = text.replace(secret, f"<{name}>") if secret else text
    return text


def _is_final(place: StorePath, error: Exception) -> bool:
    # File names must not be taken for reasons.
    text = str(error).replace(place.url.partition("://")[2].partition("/")[2] or "/", "")
    return isinstance(error, PermissionError) or bool(_REFUSED.search(text) or _NO_BUCKET.search(text))


def _failed(place: StorePath, error: Exception, tries: int, detail: str) -> StoreError:
    text = str(error)
    if _NO_BUCKET.search(text):
        what, fixes = (
            f"there is no bucket {place.bucket!r}",
            ["check the bucket's name", _endpoint_fix(place)],
        )
    elif _is_final(place, error):
        what = f"the store refuses access to bucket {place.bucket!r}"
        fixes = [_credentials_fix(place.scheme), f"allow listing and reading bucket {place.bucket!r}"]
    else:
        what = f"the store cannot be read: {tries} {'tries' if tries > 1 else 'try'} failed"
        fixes = [_endpoint_fix(place), "raise data.remote_attempts"]
    where = f"{place}, {detail}" if detail else str(place)
    return StoreError(what, where=where, got=without_secrets(error), fixes=fixes)


def _credentials_fix(scheme: str) -> str:
    if scheme in _S3:
        names = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN (or AWS_PROFILE)"
        return f"check {names} on every host"
    return f"check the credentials that {scheme}:// takes from the environment on every host"


def _endpoint_fix(place: StorePath) -> str:
    if place.scheme not in _S3:
        return "check the network and the store's endpoint"
    endpoint, region = _endpoint(), _region()
    named = (
        f"AWS_ENDPOINT_URL ({endpoint.hostname}:{endpoint.port})"
        if endpoint
        else "AWS_ENDPOINT_URL (not set)"
    )
    return f"check the network, {named} and AWS_REGION ({region or 'not set'})"


def _resolve(place: Place) -> tuple[fs.FileSystem, str]:
    """Return the file system of a place, and the path inside it."""
    from pyarrow import fs

    if isinstance(place, Path):
        return fs.LocalFileSystem(), str(place.absolute())
    path = place.url.partition("://")[2]
    if place.scheme in _S3:
        endpoint = _endpoint()
        scheme, host = (endpoint.scheme, endpoint.netloc) if endpoint else ("https", None)
        return _s3(place.bucket if host is None else None, scheme, host, _region()), path
    if place.scheme in _GCS and hasattr(fs, "GcsFileSystem"):
        return _gcs(), path
    if place.scheme in _HDFS:
        filesystem, path = fs.FileSystem.from_uri(place.url)
        return filesystem, path
    return _fsspec(place)


def _endpoint() -> Any:
    text = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return urlsplit(text if "://" in text else f"https://{text}") if text else None


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


@lru_cache(maxsize=32)
def _s3(bucket: str | None, scheme: str, host: str | None, region: str | None) -> fs.FileSystem:
    """Return S3; the SDK itself reads credentials, so that they are neither kept nor shown here."""
    from pyarrow import fs

    if region is None:
        region = fs.resolve_s3_region(bucket) if bucket is not None else "us-east-1"
    return fs.S3FileSystem(
        region=region, scheme=scheme, endpoint_override=host, connect_timeout=10, request_timeout=60
    )


@lru_cache(maxsize=1)
def _gcs() -> fs.FileSystem:
    from pyarrow import fs

    return fs.GcsFileSystem()


def _fsspec(place: StorePath) -> tuple[fs.FileSystem, str]:
    import fsspec
    from pyarrow import fs

    try:
        filesystem, path = fsspec.core.url_to_fs(place.url)
    except ImportError as error:
        raise ConfigError(
            f"reading {place.scheme}:// needs a Python package that is not installed",
            where=str(place),
            got=without_secrets(error),
            fixes=["pip install the package that the line above names"],
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"no store is known by {place.scheme}://",
            where=str(place),
            got=without_secrets(error),
            allowed=[
                "a path",
                "file://",
                "dbfs:/Volumes/",
                "s3://",
                "gs://",
                "hdfs://",
                "abfs://",
                "what fsspec knows",
            ],
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path
