"""`copy`: a prepared data set from one place to another; readers never see half of it.

A folder takes its place in one step (`jobs.preparation.commit`). A store has no such step, so the order of
requests must do: `manifest.json`, without which nothing is a data set, is deleted first and written last. In
between `copying.json` tells that the files there are ours, and of which manifest they are a part, so that the
same copy goes on where it was broken off, and another one starts anew.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from jobs.attended import PHASES
from jobs.preparation.commit import output_folder, staged_folder
from jobs.results import Dataset
from trainer.errors import ConfigError, DamagedError, DataError, StoreError
from trainer.schema import MANIFEST_FILE, Manifest
from trainer.storage import Place, StorePath, as_place, file_system, list_files, read_text
from trainer.store_writing import copy_file, delete, write_text

COPYING_FILE = "copying.json"
"""Lies on a store while a data set is copied there."""
_FILES_AT_ONCE = 16
_WHOLE = ["copy from where it is whole", "prepare the data set again"]
_SECONDS_BETWEEN_LINES = 10.0


def copy_dataset(source: Dataset | str | Place, target: str | Place) -> Dataset:
    """Copy a prepared data set; one that is at the target already is replaced.

    Files are copied 16 at once through this machine, `manifest.json` last. A copy to a store that was broken
    off goes on where it stopped.

    Args:
        source: data set: one that a verb returned, a path, or a URL such as `s3://bucket/prepared/ads`.
        target: folder or URL to make.

    Returns:
        The copy.

    Raises:
        DataError: the source is no whole data set, or the target is something else than a data set.
        ConfigError: one of the two lies inside the other, or rows for a store have their vectors in a folder.
        StoreError: a store cannot be reached, refuses access, or keeps failing.
        UserError: no permission to write, or the disk is full.
    """
    start = time.perf_counter()
    origin = source.path if isinstance(source, Dataset) else as_place(source)
    manifest = Manifest.load(origin)
    sizes = _sizes(origin, manifest)
    place = as_place(target)
    if not isinstance(place, StorePath):
        place = output_folder(place)
    _require_apart(origin, place)
    if isinstance(place, StorePath):
        _require_vectors_there(manifest)
        _to_store(origin, place, sizes)
    else:
        with staged_folder(place) as staging:
            _copy_files(origin, staging, sizes)
            _require_sizes(staging, sizes)
    return Dataset(place, manifest, seconds=time.perf_counter() - start)


def check_store_target(place: StorePath) -> None:
    """Check, before hours of work, that a data set may be put at a URL: files are listed, written, deleted.

    Raises:
        DataError: something else than a data set is there.
        StoreError: the store cannot be reached or refuses access.
    """
    if COPYING_FILE not in _replaceable(place):
        _mark(place, None)
        delete(place / COPYING_FILE)


def _sizes(origin: Place, manifest: Manifest) -> dict[str, int]:
    """Return the bytes of every file of a data set, all part files among them."""
    sizes = list_files(origin)
    sizes.pop(COPYING_FILE, None)
    for split in manifest.splits.values():
        for part in split.files:
            if sizes.get(part.path) != part.bytes:
                raise DamagedError(
                    "the data set is not whole: a part file is missing or has another size",
                    where=str(origin / part.path),
                    got="no file" if part.path not in sizes else f"{sizes[part.path]:,} bytes",
                    allowed=f"{part.bytes:,} bytes, as the manifest says",
                    fixes=_WHOLE,
                )
    for folder in _folders(manifest):
        if not any(name.startswith(f"{folder}/") for name in sizes):
            raise DamagedError(
                "the data set is not whole: a folder is missing or empty",
                where=str(origin / folder),
                fixes=_WHOLE,
            )
    return sizes


def _folders(manifest: Manifest) -> list[str]:
    """Return the folders of vocabularies and vectors that a data set must have."""
    if not manifest.config_hash:  # rows to be scored (`write_inputs`), which leave them where they are
        return []
    features = manifest.spec.features
    tables = [feature.vectors.folder for feature in features if feature.vectors is not None]
    return [*(feature.vocabulary for feature in features if feature.vocabulary is not None), *tables]


def _require_vectors_there(manifest: Manifest) -> None:
    """Check that readers of a store find the vectors: in the data set, or on a store."""
    if manifest.vectors_in is not None and isinstance(as_place(manifest.vectors_in), Path):
        raise ConfigError(
            "the vectors of these rows lie in a folder of this machine, where readers of a store cannot look",
            where="vectors_in",
            got=manifest.vectors_in,
            fixes=["copy that data set to the store, and write the rows with its URL as `vectors_in`"],
        )


def _require_apart(origin: Place, target: Place) -> None:
    # A link to a folder is that folder.
    ends = [place.resolve() if isinstance(place, Path) else place for place in (origin, target)]
    (first, mine), (second, theirs) = (file_system(place) for place in ends)
    inside = f"{mine}/".startswith(f"{theirs}/") or f"{theirs}/".startswith(f"{mine}/")
    if inside and first.equals(second):
        raise ConfigError(
            "a data set cannot be copied onto itself, or into itself",
            where=str(target),
            got=str(origin),
            fixes=["choose another target"],
        )


def _to_store(origin: Place, target: StorePath, sizes: Mapping[str, int]) -> None:
    digest = hashlib.sha256(read_text(origin / MANIFEST_FILE).encode("utf-8")).hexdigest()
    found = _replaceable(target)
    there: dict[str, int] = {}
    if MANIFEST_FILE not in found and COPYING_FILE in found and _copied_before(target) == digest:
        there = found
    elif found:
        _mark(target, None)  # What is there now must not be taken for a part of this copy.
        _clear(target, found)
    _mark(target, digest)
    parts = {name: size for name, size in sizes.items() if name != MANIFEST_FILE}
    _copy_files(origin, target, {name: size for name, size in parts.items() if there.get(name) != size})
    _require_sizes(target, parts)
    copy_file(origin / MANIFEST_FILE, target / MANIFEST_FILE, threading.Event())
    with suppress(StoreError):  # The data set is complete with this file too.
        delete(target / COPYING_FILE)


def _replaceable(target: StorePath) -> dict[str, int]:
    """Return the files at a URL, all of which may be deleted."""
    found = list_files(target)
    inner = next((name for name in found if name.endswith(f"/{MANIFEST_FILE}")), None)
    if inner is not None or (found and not {MANIFEST_FILE, COPYING_FILE} & found.keys()):
        what = (
            "something else than a data set is at the URL"
            if inner is None
            else "other data sets lie below it"
        )
        raise DataError(
            f"{what}, so nothing there is replaced",
            where=str(target),
            got=inner or f"{next(iter(found))} and {len(found) - 1} other files",
            fixes=["choose another URL", "delete it yourself"],
        )
    return found


def _copied_before(target: StorePath) -> str | None:
    try:
        digest = json.loads(read_text(target / COPYING_FILE))["manifest"]
    except (ValueError, KeyError, TypeError, FileNotFoundError):  # Broken off while it was written.
        return None
    return digest if isinstance(digest, str) else None


def _mark(target: StorePath, digest: str | None) -> None:
    write_text(target / COPYING_FILE, json.dumps({"manifest": digest}))


def _clear(target: StorePath, found: Collection[str]) -> None:
    if MANIFEST_FILE in found:
        delete(target / MANIFEST_FILE)
    for name in sorted({name.partition("/")[0] for name in found} - {MANIFEST_FILE, COPYING_FILE}):
        delete(target / name, folder=name not in found)


def _copy_files(origin: Place, target: Place, sizes: Mapping[str, int]) -> None:
    """Copy files, and stop all copies where one fails."""
    total, done, said = sum(sizes.values()), 0, time.monotonic()
    PHASES.info("copying %s files (%s) from %s to %s", f"{len(sizes):,}", _size_text(total), origin, target)
    stop = threading.Event()
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="shardrec-copy") as pool:
        copies = {
            pool.submit(copy_file, origin / name, target / name, stop): size for name, size in sizes.items()
        }
        try:
            for copy in as_completed(copies):
                copy.result()
                done += copies[copy]
                if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
                    said = time.monotonic()
                    PHASES.info("copied %s of %s", _size_text(done), _size_text(total))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _require_sizes(target: Place, sizes: Mapping[str, int]) -> None:
    found = list_files(target)
    for name, size in sizes.items():
        if found.get(name) != size:
            raise StoreError(
                "a file was not copied whole, or something else writes to the same place",
                where=str(target / name),
                got="no file" if name not in found else f"{found[name]:,} bytes",
                allowed=f"{size:,} bytes",
                fixes=["copy again when nothing else writes there"],
            )


def _size_text(size: int) -> str:
    unit, name = next(((u, n) for u, n in ((2**30, "GiB"), (2**20, "MiB")) if size >= u), (2**10, "KiB"))
    return f"{size / unit:.1f} {name}"
