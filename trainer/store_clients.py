"""The client behind a URL: pyarrow's own for S3, Google Cloud Storage and HDFS, fsspec's for all others.

Imports pyarrow only when a store is opened.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from trainer.errors import ConfigError

if TYPE_CHECKING:
    from pyarrow import fs

S3_SCHEMES = frozenset({"s3", "s3a", "s3n"})
_GCS_SCHEMES = frozenset({"gs", "gcs"})
_HDFS_SCHEMES = frozenset({"hdfs", "viewfs"})
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


def client(place: str | Path) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URL or of a local path, and the path inside it.

    Raises:
        ConfigError: no store is known by the scheme, or a package for it is missing.
    """
    from pyarrow import fs

    if isinstance(place, Path):
        return fs.LocalFileSystem(), str(place.absolute())
    scheme, _, path = place.partition("://")
    scheme = scheme.lower()
    if scheme in S3_SCHEMES:
        endpoint = s3_endpoint()
        protocol, host = (endpoint.scheme, endpoint.netloc) if endpoint else ("https", None)
        return _s3(path.partition("/")[0] if host is None else None, protocol, host, s3_region()), path
    if scheme in _GCS_SCHEMES and hasattr(fs, "GcsFileSystem"):
        return _gcs(), path
    if scheme in _HDFS_SCHEMES:
        filesystem, path = fs.FileSystem.from_uri(place)
        return filesystem, path
    return _fsspec(place, scheme)


def s3_endpoint() -> SplitResult | None:
    """Return the endpoint of an S3-compatible store; None for AWS."""
    text = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return urlsplit(text if "://" in text else f"https://{text}") if text else None


def s3_region() -> str | None:
    """Return the region that the environment names."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def without_secrets(error: BaseException) -> str:
    """Return the first line of an error's message, credentials blanked out."""
    text = (str(error).splitlines() or [""])[0] or type(error).__name__
    for name in _SECRETS:
        secret = os.environ.get(name)
        text = text.replace(secret, f"<{name}>") if secret else text
    return text


@lru_cache(maxsize=32)
def _s3(bucket: str | None, scheme: str, host: str | None, region: str | None) -> fs.FileSystem:
    """Return S3; the SDK itself reads credentials, so that they are neither kept nor shown here."""
    from pyarrow import fs

    if region is None:
        region = fs.resolve_s3_region(bucket) if bucket is not None else "us-east-1"
    return fs.S3FileSystem(
        region=region,
        scheme=scheme,
        endpoint_override=host,
        connect_timeout=10,
        request_timeout=60,
        background_writes=False,  # They would take a file into memory as fast as it is read.
    )


@lru_cache(maxsize=1)
def _gcs() -> fs.FileSystem:
    from pyarrow import fs

    return fs.GcsFileSystem()


def _fsspec(url: str, scheme: str) -> tuple[fs.FileSystem, str]:
    import fsspec
    from pyarrow import fs

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ConfigError(
            f"{scheme}:// needs a Python package that is not installed",
            where=url,
            got=without_secrets(error),
            fixes=["pip install the package that the line above names"],
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"no store is known by {scheme}://",
            where=url,
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
