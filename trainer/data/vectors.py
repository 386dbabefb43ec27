"""Precomputed vectors, looked up while batches are made.

The files are memory-mapped: only what the rows ask for is read, and the ranks of a host share the pages. A
data set on a store has them copied once to a folder of this host, by the digest of what they hold.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.schema import FIRST_VOCABULARY_ID, Feature, Manifest, VectorTable
from trainer.storage import Place, StorePath, as_place, list_files, local_copy

_PART = "part-*.npy"
_FILES_AT_ONCE = 8
_FIXES = ["copy the data set folder again, whole", "prepare the data set again"]


class Vectors:
    """The vectors of one table.

    Attributes:
        dim: D.

    Args:
        folder: of the parts.
        dim: length that the vectors must have.
        count: vectors that there must be.

    Raises:
        DataError: the parts are missing, damaged, or not what the manifest says.
    """

    def __init__(self, folder: Path, dim: int, count: int) -> None:
        self.dim = dim
        self._parts = [_mapped(path, dim) for path in sorted(folder.glob(_PART))]
        self._starts = np.cumsum([0, *map(len, self._parts)])
        if self._starts[-1] != count:
            raise DataError(
                "vectors are missing: the parts hold others than the manifest says",
                where=str(folder),
                got=f"{self._starts[-1]:,} vectors in {len(self._parts)} files",
                allowed=f"{count:,}",
                fixes=_FIXES,
            )

    def look_up(self, ids_N: NDArray[Any], out_ND: NDArray[np.float32]) -> None:
        """Write the vector of each id; zeros where the id is missing or out of vocabulary.

        Args:
            ids_N: 0 to `num_embeddings - 1`.
            out_ND: float32 [N, D], which may be a slice of a wider array.
        """
        out_ND[:] = 0
        known = np.flatnonzero(ids_N >= FIRST_VOCABULARY_ID)
        rows = ids_N[known] - FIRST_VOCABULARY_ID
        parts = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(parts):
            here = parts == number
            out_ND[known[here]] = self._parts[number][rows[here] - self._starts[number]]


def open_vectors(manifest: Manifest, dataset: str | Place) -> tuple[Vectors, ...]:
    """Open the vectors of a data set, one entry for each of `spec.vectors`.

    Raises:
        DataError: they are missing, damaged, or not what the manifest says.
        StoreError: the store cannot be read.
    """
    place = as_place(manifest.vectors_in) if manifest.vectors_in else manifest.folder_in(dataset)
    opened: dict[str, Vectors] = {}
    for feature in manifest.spec.vectors:
        table = _table(feature)
        if table.folder not in opened:
            count = (feature.num_embeddings or 0) - FIRST_VOCABULARY_ID
            opened[table.folder] = Vectors(_here(place, feature), table.dim, count)
    return tuple(opened[_table(feature).folder] for feature in manifest.spec.vectors)


def with_vectors(
    dense_BF: NDArray[np.float32], ids_FB: NDArray[Any], vectors: Sequence[Vectors]
) -> NDArray[np.float32]:
    """Append the vectors to the dense features.

    Args:
        dense_BF: the dense features.
        ids_FB: for each of the vectors the ids of the rows.
        vectors: without any, `dense_BF` is returned as it is.

    Returns:
        float32 [B, F + sum of the vectors' D].
    """
    if not vectors:
        return dense_BF
    rows, start = dense_BF.shape
    made = np.empty((rows, start + sum(v.dim for v in vectors)), np.float32)
    made[:, :start] = dense_BF
    for found, ids_B in zip(vectors, ids_FB, strict=True):
        found.look_up(ids_B, made[:, start : start + found.dim])
        start += found.dim
    return made


def _table(feature: Feature) -> VectorTable:
    assert feature.vectors is not None
    return feature.vectors


def _mapped(path: Path, dim: int) -> NDArray[np.float32]:
    try:
        # The plain view: subclasses of arrays are slow to index.
        part: NDArray[np.float32] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            "a file of vectors cannot be read: it is truncated or damaged",
            where=str(path),
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            fixes=_FIXES,
        ) from error
    if part.dtype != np.float32 or part.ndim != 2 or part.shape[1] != dim:
        raise DataError(
            "a file of vectors is not what the manifest says",
            where=str(path),
            got=f"{part.dtype} {list(part.shape)}",
            allowed=f"float32 [rows, {dim}]",
            fixes=_FIXES,
        )
    return part


def _here(place: Place, feature: Feature) -> Path:
    """Return the folder of a feature's vectors on this host."""
    table = _table(feature)
    if isinstance(place, Path):
        return place / table.folder
    cache = _cache()
    # The order of the vectors is that of the vocabulary's ids.
    copy = cache / f"{table.digest}-{feature.vocabulary_hash}"
    with _locked(cache / f"{copy.name}.lock"):
        if not copy.exists():
            _fetched(place / table.folder, cache, copy.name).rename(copy)
    return copy


def _fetched(source: StorePath, cache: Path, name: str) -> Path:
    """Copy the files of vectors that are not there yet: ranks that were given up leave whole ones."""
    sizes = {file: size for file, size in list_files(source).items() if fnmatch(file, _PART)}
    if not sizes:
        raise DataError("the vectors of the data set are missing", where=str(source), fixes=_FIXES)
    # The same vectors may be cut into other files elsewhere.
    layout = hashlib.sha256(json.dumps(sorted(sizes.items())).encode()).hexdigest()[:16]
    folder = cache / f".{name}-{layout}"
    folder.mkdir(exist_ok=True)
    partial = folder / "partial"

    def fetch(file: str) -> None:
        local_copy(source / file, partial).replace(folder / file)

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        list(pool.map(fetch, (file for file in sizes if not (folder / file).exists())))
    shutil.rmtree(partial, ignore_errors=True)
    return folder


def _cache() -> Path:
    """Return this user's folder of copies; another's is not trusted."""
    folder = Path(tempfile.gettempdir()) / f"shardrec-vectors-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise DataError(
            "the folder for copies of vectors belongs to another user",
            where=str(folder),
            fixes=["set TMPDIR to a folder of your own"],
        )
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one rank of a host copy while the others wait."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
