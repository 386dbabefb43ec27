"""Finds the files of a source and their format before Spark reads them."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from jobs.preparation.failures import no_read_permission
from jobs.preparation.parquet_files import ParquetGroup, parquet_groups
from jobs.preparation.spark_paths import is_volume, spark_path
from jobs.preparation.table_folders import refuse_tables_here
from trainer.config import SourceConfig
from trainer.config.source import absolute_path, named_format
from trainer.errors import ConfigError, DataError
from trainer.storage import local_path

_MOUNTED = ("file:", "dbfs:")
_GLOB = re.compile(r"[*?\[]")
_Place = tuple[str, str | None]
"""A file, and the folder of `path` that it was found in, if it was."""


@dataclass(frozen=True)
class SourceFiles:
    """What a source consists of.

    Attributes:
        paths: for Spark, which takes them as patterns: other characters of names found here are escaped.
        format: that the files share.
        shown: the first paths as a person writes them, for errors.
        here: the files themselves; empty where some can be opened by Spark only.
        bases: the folders of `path` that hold partition folders; Spark reads text of one of them at a time.
        groups: of Parquet files that Spark can read in one go.
        lost: what was left out as damaged, as lines for the report.
    """

    paths: list[str]
    format: str
    shown: str
    here: list[str]
    groups: tuple[ParquetGroup, ...] = ()
    lost: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()


def find_files(
    source: SourceConfig, root: str, where: str, *, local: bool, elsewhere: bool = False
) -> SourceFiles:
    """Return the files of a source.

    Args:
        source: with `path` set.
        root: folder that relative paths start from.
        where: key path for errors.
        local: whether Spark runs on this machine, so that plain paths mean its file system.
        elsewhere: whether plain paths are of another file system to Spark; only a local one looks here first.

    Raises:
        ConfigError: the format cannot be told from the names, or has no such option.
        DataError: a path does not exist, matches nothing, or may not be read; a Parquet file is damaged, or
            lacks a column of another; a folder is that of a Delta, Hudi or Iceberg table.
    """
    paths: list[str] = []
    entries: list[str] = []
    theirs: set[str] = set()
    for path in source.paths():
        absolute = absolute_path(path, root)
        own = path_here(absolute, local=local, elsewhere=elsewhere)
        paths += [absolute] if own is None else existing_here(own, f"{where}.path")
        theirs |= {absolute} if own is None and elsewhere else set()
        entries += [path] * (len(paths) - len(entries))
    if not paths:
        raise ConfigError("`path` is an empty list", where=f"{where}.path")
    found = [path for path in paths if path not in theirs and Path(path).exists()]
    refuse_tables_here(found, where)
    by_path: list[list[_Place]] = [[(path, None)] if path in theirs else _placed(path) for path in paths]
    _check_once(list(zip(entries, by_path, strict=True)), f"{where}.path")
    placed = [place for places in by_path for place in places]
    if len(found) == len(paths) and not placed:
        inside = any(item.is_dir() and not hidden(item.name) for item in Path(found[0]).iterdir())
        raise DataError(
            "the folder holds no files",
            where=f"{where}.path",
            got=found[0],
            fixes=["name folders inside it themselves: only partitions, such as `day=1`, are looked into"]
            if inside
            else ["name the folder that holds the files"],
        )
    kind = source.format or _format([file for file, _ in placed] or paths, where)
    ignored = source.ignored_options(kind)
    if ignored:
        raise ConfigError(
            f"`{ignored[0]}` means nothing for {kind} files",
            where=f"{where}.{ignored[0]}",
            got=getattr(source, ignored[0]),
            fixes=["leave it out", "check `format` of the source"],
        )
    if len(found) < len(paths):
        placed = []
    shown, here = ", ".join(paths[:3]), [file for file, _ in placed]
    ours = set(found)
    given = [escaped(path) if path in ours else path for path in paths]
    if kind != "parquet":
        return SourceFiles(given, kind, shown, here, bases=_bases(placed, f"{where}.path"))
    skip = source.on_corrupt == "skip"
    if skip and not here:
        raise ConfigError(
            "damaged Parquet files can be skipped only where this machine can open them",
            where=f"{where}.on_corrupt",
            got=shown,
            fixes=["on_corrupt: fail", "copy or mount the files"],
        )
    if not here:
        return SourceFiles(given, kind, shown, here, (ParquetGroup(tuple(given)),))
    groups, lost = parquet_groups(paths, placed, local=local, skip=skip)
    if [group.paths for group in groups] != [tuple(paths)]:
        # Copies stand for some of the files, and others are left out.
        read = {file: path for group in groups for file, path in zip(group.files, group.paths, strict=True)}
        here = [read[file] for file in here if file in read]
    groups = [replace(group, paths=tuple(map(escaped, group.paths))) for group in groups]
    return SourceFiles(given, kind, shown, here, tuple(groups), tuple(lost))


def escaped(path: str) -> str:
    """Return the pattern by which Spark finds a path of this machine, and no other."""
    return spark_path(re.sub(r"([*?\[\]{}\\])", r"\\\1", path))


def path_here(absolute: str, *, local: bool, elsewhere: bool) -> str | None:
    """Return the path that must be there on this machine; None for what Spark alone may be able to find.

    Args:
        absolute: path or URL, perhaps a pattern.
        local: whether plain paths mean this machine's file system; on a cluster they may mean another one.
        elsewhere: see `find_files`.
    """
    path = local_path(absolute)
    if path is None or absolute.startswith(_MOUNTED) or is_volume(path):
        return path
    if elsewhere and local:
        return path if Path(path).exists() or any(glob.iglob(path, recursive=True)) else None
    return path if local else None


def existing_here(path: str, where: str) -> list[str]:
    """Return a path, or the paths that match a pattern.

    Raises:
        DataError: there is none, or no permission to read it.
    """
    if _GLOB.search(path) and not Path(path).exists():
        found = sorted(name for name in glob.glob(path, recursive=True) if not hidden(Path(name).name))
        if not found:
            raise DataError("no file matches the pattern", where=where, got=path)
        return found
    if not Path(path).exists():
        folder = Path(path).parent
        names = [item.name for item in folder.iterdir()] if folder.is_dir() else []
        near = difflib.get_close_matches(Path(path).name, names, n=3)
        fixes = [f"did you mean {folder / name}?" for name in near]
        if not folder.is_dir():
            fixes = [f"the folder {folder} does not exist either; relative paths start at data.root"]
        raise DataError("there is no such file or folder", where=where, got=path, fixes=fixes)
    # Listing a folder without permission finds nothing, and says nothing.
    if not os.access(path, os.R_OK | (os.X_OK if Path(path).is_dir() else 0)):
        raise no_read_permission(path, "permission denied")
    return [path]


def _bases(placed: Sequence[_Place], where: str) -> tuple[str, ...]:
    """Return the folders that hold partition folders.

    Raises:
        DataError: not all files lie in partition folders of the same columns.
    """
    first: dict[tuple[str, ...], str] = {}
    for file, folder in placed:
        parts = Path(file).relative_to(folder).parts[:-1] if folder else ()
        names = tuple(unquote(part.partition("=")[0]) for part in parts if "=" in part)
        first.setdefault(names, file)
    if len(first) > 1:
        (one, a), (other, b) = list(first.items())[:2]
        raise DataError(
            "the files of a source lie in folders of different partition columns",
            where=where,
            got=f"{', '.join(one) or 'none'} for {a}; {', '.join(other) or 'none'} for {b}",
            fixes=["name in `path` what fits together", "name the partition folders, without their columns"],
        )
    return tuple(dict.fromkeys(folder for _, folder in placed if folder and () not in first))


def _check_once(found: Sequence[tuple[str, list[_Place]]], where: str) -> None:
    """Check that no file is read twice, whatever the entries that name it."""
    first: dict[str, str] = {}
    for entry, file in [(entry, file) for entry, places in found for file, _ in places]:
        real = os.path.realpath(file)
        if real in first:
            raise ConfigError(
                "a file is named twice, and its rows would count twice",
                where=where,
                got=f"{file}, by {first[real]!r} and by {entry!r}",
                fixes=["name it once, itself or by one folder or glob"],
            )
        first[real] = entry


def _format(names: list[str], where: str) -> str:
    for name in names:
        found = named_format(name)
        if found is not None:
            return found
    raise ConfigError(
        "the format of the source cannot be told from its name",
        where=f"{where}.format",
        got=names[0],
        allowed=["csv", "tsv", "parquet", "json"],
        fixes=["set `format`"],
    )


def _placed(path: str) -> list[_Place]:
    """Return the files of a path, with the folder where it is one."""
    if not Path(path).is_dir():
        return [(path, None)]
    return [(str(file), path) for file in _files_below(Path(path))]


def _files_below(folder: Path) -> list[Path]:
    """Return the files that Spark reads of a folder: in partition folders if there are any, else its own.

    Raises:
        DataError: there are files beside partition folders, which Spark would leave out.
    """
    inside = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(map(hidden, path.relative_to(folder).parts))
    ]
    partitions = [path for path in inside if any("=" in part for part in path.relative_to(folder).parts[:-1])]
    if not partitions:
        return [path for path in inside if path.parent == folder]
    if len(partitions) < len(inside):
        raise DataError(
            "a file lies beside partition folders, where Spark does not read it",
            where=str(next(path for path in inside if path not in partitions)),
            got=f"partition folders such as {partitions[0].parent}",
            fixes=["move the file", "name the folders in `path`, without their partition columns"],
        )
    return partitions


def hidden(name: str) -> bool:
    """Return whether Spark passes over a file or folder of this name."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name) or name.endswith("._COPYING_")
