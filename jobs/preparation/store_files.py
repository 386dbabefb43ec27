"""Finds the files of a source on a store, as they are found in a folder of this machine."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from jobs.preparation.files import hidden
from trainer.errors import DataError
from trainer.storage import StorePath
from trainer.store_listing import StoredFile, look_up, names_in

_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Found:
    """What a URL or pattern leads to.

    Attributes:
        places: files and folders that it names.
        files: to read, by their path in the bucket.
        folders: those of `places`, and what lies in them.
    """

    places: list[StorePath]
    files: dict[str, StoredFile]
    folders: list[StorePath]


def files_of(place: StorePath, where: str) -> Found:
    """Return the files to read at a URL, or at what matches it.

    Args:
        place: file, folder, or pattern with `*`, `?`, `[...]` and `**`.
        where: key path for errors.

    Raises:
        DataError: there is no such file, or nothing matches.
        StoreError: there is no such bucket, or the store cannot be read or refuses access.
    """
    found = {place: look_up(place)}
    if found[place] is None:
        key = _key(place)
        if not _GLOB.search(key):
            raise _missing(place, where)
        parts = key.split("/")
        bucket = StorePath(f"{place.scheme}://{place.bucket}")
        found = {match: look_up(match) for match in _matches(bucket, parts)}
        if all(each is None for each in found.values()):
            raise DataError("no file matches the pattern", where=where, got=str(place))
    files: dict[str, StoredFile] = {}
    folders: list[StorePath] = []
    for match, each in found.items():
        key = _key(match)
        if isinstance(each, StoredFile):
            files[key] = each
        elif each is not None:
            inside = _wanted(each)
            files |= {f"{key}/{name}".lstrip("/"): file for name, file in inside.items()}
            folders += [match, *(match / name for name in _top_folders(each))]
    for name in files:
        _check_name(name, place)
    return Found([match for match, each in found.items() if each is not None], files, folders)


def marker_above(place: StorePath, name: str) -> dict[str, StoredFile]:
    """Return the file of a name in the folder, or the nearest one above it, by its path in the bucket."""
    parts = _key(place).split("/")
    for end in range(len(parts), -1, -1):
        key = "/".join([*parts[:end], name])
        found = None if _GLOB.search(key) else look_up(StorePath(f"{place.scheme}://{place.bucket}/{key}"))
        if isinstance(found, StoredFile):
            return {key: found}
    return {}


def _key(place: StorePath) -> str:
    return place.url.partition("://")[2].partition("/")[2]


def _matches(folder: StorePath, parts: Sequence[str]) -> Iterator[StorePath]:
    """Yield what may match a pattern, whose parts after the last wildcard need not be there."""
    if not parts:
        yield folder
        return
    first, rest = parts[0], parts[1:]
    if first == "**":
        below = look_up(folder)
        names = below if isinstance(below, dict) else {}
        inner = {
            str(parent) for name in names for parent in PurePosixPath(name).parents if str(parent) != "."
        }
        for each in [folder, *(folder / name for name in sorted(inner))]:
            yield from _matches(each, rest or ["*"])
    elif _GLOB.search(first):
        for name in sorted(names_in(folder)):
            if fnmatchcase(name, first) and not hidden(name):
                yield from _matches(folder / name, rest)
    else:
        yield from _matches(folder / first, rest)


def _wanted(below: dict[str, StoredFile]) -> dict[str, StoredFile]:
    """Return the files that are looked at of a folder: its own ones, or all where there are partitions."""
    seen = {name: file for name, file in below.items() if not any(map(hidden, name.split("/")))}
    if any("=" in part for name in seen for part in name.split("/")[:-1]):
        return seen
    return {name: file for name, file in seen.items() if "/" not in name}


def _top_folders(below: dict[str, StoredFile]) -> list[str]:
    tops = {name.partition("/")[0] for name in below if "/" in name}
    return sorted(top for top in tops if not hidden(top))


def _check_name(name: str, place: StorePath) -> None:
    """Check that a file can be copied to a path of its own."""
    if {"", ".", ".."} & set(name.split("/")):
        raise DataError(
            "a file on the store has a name that is no path",
            where=str(place),
            got=repr(name),
            fixes=["copy the files under other names"],
        )


def _missing(place: StorePath, where: str) -> DataError:
    folder, _, name = place.url.rpartition("/")
    near = difflib.get_close_matches(name, names_in(StorePath(folder)), n=3)
    return DataError(
        "there is no such file or folder",
        where=where,
        got=str(place),
        fixes=[f"did you mean {folder}/{other}?" for other in near] or [f"look at what lies in {folder}"],
    )
