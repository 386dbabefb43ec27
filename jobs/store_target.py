"""A data set put at a URL; the one that is there stays whole until the new one is.

A store cannot exchange two folders. So the first data set at a URL lies there itself, and one that takes its
place in a folder inside, named after its manifest, while the old `manifest.json` still names the old files.
The new `manifest.json`, written in one request when all else is there, replaces the old data set, whose files
are deleted afterwards. In between `copying.json` tells that what lies there is ours, and of which manifest:
the same copy goes on where it was broken off, and another one starts anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from jobs.file_copies import copy_files, require_sizes
from trainer.errors import DataError, StoreError
from trainer.schema import MANIFEST_FILE, Manifest
from trainer.storage import Place, StorePath, list_files, read_text
from trainer.store_writing import delete, write_text

COPYING_FILE = "copying.json"
"""Lies on a store while a data set is copied there."""
_INNER = re.compile(r"v-[0-9a-f]{12}(-2)?/")


@dataclass(frozen=True)
class Replaced:
    """A data set at a URL that another one is made from.

    Attributes:
        text: its manifest, which must still be the one there when the other takes its place.
        kept: bytes of the files that the other one shares, by their path in the data set.
    """

    text: str
    kept: Mapping[str, int]


def check_store_target(place: StorePath) -> None:
    """Check, before hours of work, that a data set may be put at a URL: files are listed, written, deleted.

    Raises:
        DataError: something else than a data set is there.
        StoreError: the store cannot be reached or refuses access.
    """
    if COPYING_FILE not in _replaceable(place):
        _mark(place, None, None)
        delete(place / COPYING_FILE)


def put_dataset(
    origin: Place, target: StorePath, sizes: Mapping[str, int], replaced: Replaced | None = None
) -> Manifest:
    """Copy a data set to a URL, and delete one that is there when all is copied.

    Args:
        origin: its folder.
        target: URL.
        sizes: bytes of its files, but for the manifest, by their path in it.
        replaced: what it is made from, if that is the data set at the URL.

    Returns:
        The manifest at the URL.

    Raises:
        DataError: something else than a data set is there.
        StoreError: the store cannot be reached, refuses access, or keeps failing; or another data set came
            to the URL meanwhile.
    """
    manifest, text = Manifest.load(origin), read_text(origin / MANIFEST_FILE)
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    found = _replaceable(target)
    in_use = _files_in(target) if MANIFEST_FILE in found else None
    folder = _new_folder(digest, in_use) if MANIFEST_FILE in found else None
    there = _copied_before(target, found, digest, folder)
    stale = [name for name in found if not _is_of(name, in_use, MANIFEST_FILE in found)]
    if not there and stale:
        _mark(target, None, None)  # What is there now must not be taken for a part of this copy.
        _clear(target, stale)
    _mark(target, digest, folder)
    place = target / folder if folder else target
    missing = {name: size for name, size in sizes.items() if there.get(name) != size}
    kept = {} if replaced is None else {n: s for n, s in missing.items() if replaced.kept.get(n) == s}
    copy_files(target / in_use if in_use else target, place, kept)
    copy_files(manifest.folder_in(origin), place, {n: s for n, s in missing.items() if n not in kept})
    require_sizes(place, sizes)
    _require_unchanged(target, replaced)
    made = manifest.model_copy(update={"files_in": folder})
    write_text(target / MANIFEST_FILE, text if made == manifest else made.as_text())
    with suppress(StoreError):  # The data set is complete with these files too; the next copy deletes them.
        if folder:
            _clear(target, [name for name in found if not name.startswith(f"{folder}/")])
        delete(target / COPYING_FILE)
    return made


def files_of(origin: Place, manifest: Manifest) -> dict[str, int]:
    """Return the bytes of the files of a data set, but for its manifest, by their path in it.

    Raises:
        StoreError: the store cannot be read.
    """
    found = list_files(manifest.folder_in(origin))
    if manifest.files_in is None:  # Copies that were broken off, or what they left to delete.
        found = {name: size for name, size in found.items() if not _INNER.match(name)}
    return {name: size for name, size in found.items() if name not in (MANIFEST_FILE, COPYING_FILE)}


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


def _files_in(target: StorePath) -> str | None:
    """Return the folder that the data set at a URL has its files in; None for the URL itself."""
    try:
        found = json.loads(read_text(target / MANIFEST_FILE)).get("files_in")
    except (ValueError, AttributeError):  # damaged, and about to be replaced
        return None
    return found if isinstance(found, str) else None


def _new_folder(digest: str, in_use: str | None) -> str:
    name = f"v-{digest[:12]}"
    return f"{name}-2" if name == in_use else name


def _is_of(name: str, in_use: str | None, is_data_set: bool) -> bool:
    """Return whether a file is of the data set at a URL, in use until another manifest is there."""
    if name == COPYING_FILE or not is_data_set:
        return name == COPYING_FILE
    return name == MANIFEST_FILE or (
        name.startswith(f"{in_use}/") if in_use is not None else not _INNER.match(name)
    )


def _copied_before(
    target: StorePath, found: Mapping[str, int], digest: str, folder: str | None
) -> dict[str, int]:
    """Return the files that this very copy has left, where it was broken off."""
    if COPYING_FILE not in found:
        return {}
    try:
        mark = json.loads(read_text(target / COPYING_FILE))
        same = (mark["manifest"], mark.get("folder")) == (digest, folder)
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError):  # Half written.
        return {}
    start = f"{folder}/" if folder else ""
    return {n.removeprefix(start): s for n, s in found.items() if n.startswith(start)} if same else {}


def _mark(target: StorePath, digest: str | None, folder: str | None) -> None:
    write_text(target / COPYING_FILE, json.dumps({"manifest": digest, "folder": folder}))


def _clear(target: StorePath, names: Collection[str]) -> None:
    for name in sorted({name.partition("/")[0] for name in names} - {MANIFEST_FILE, COPYING_FILE}):
        delete(target / name, folder=name not in names)


def _require_unchanged(target: StorePath, replaced: Replaced | None) -> None:
    try:
        if replaced is None or read_text(target / MANIFEST_FILE) == replaced.text:
            return
    except FileNotFoundError:
        pass
    raise StoreError(
        "the data set on the store was changed while rows were added to it; it stays as it is now",
        where=str(target),
        fixes=["add the rows again when nothing else writes there"],
    )
