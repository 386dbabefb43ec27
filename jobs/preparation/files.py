"""Finds the files of a source and their format, before Spark reads them."""

from __future__ import annotations

import atexit
import difflib
import glob
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.config import SourceConfig
from trainer.errors import ConfigError, DataError

_FORMATS = {
    ".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".parquet": "parquet", ".parq": "parquet", ".pq": "parquet",
}  # fmt: skip
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+:")
_GLOB = re.compile(r"[*?\[]")
# Opening footers one by one takes about a millisecond each; past this many files Spark's own error must do.
_MAX_FOOTERS = 2000


@dataclass(frozen=True)
class SourceFiles:
    """Paths for Spark, and the format they share."""

    paths: list[str]
    format: str


def local_path(path: str) -> str | None:
    """Return the POSIX path behind a path or URL that this machine can open, else None."""
    if path.startswith("file:"):
        return re.sub(r"^file:/*", "/", path)
    if path.startswith("dbfs:/Volumes/"):
        return path.removeprefix("dbfs:")
    if path.startswith("dbfs:/"):
        return "/dbfs/" + path.removeprefix("dbfs:/").lstrip("/")
    return None if _SCHEME.match(path) else path


def find_files(source: SourceConfig, root: str, where: str, *, local: bool) -> SourceFiles:
    """Return the files of a source.

    Args:
        source: with `path` set.
        root: folder that relative paths start from.
        where: key path for errors.
        local: whether Spark runs on this machine, so that plain paths mean its file system.

    Raises:
        ConfigError: the format cannot be told from the names.
        DataError: a path does not exist, matches nothing, or holds a Parquet file that cannot be read.
    """
    given = [source.path] if isinstance(source.path, str) else list(source.path or [])
    if not given:
        raise ConfigError("`path` is an empty list", where=f"{where}.path")
    paths: list[str] = []
    for path in given:
        absolute = _absolute(path, root)
        posix = local_path(absolute)
        # On a cluster a plain path may mean its own file system, which only Spark can look into.
        known = posix is not None and (local or absolute.startswith(("file:", "dbfs:")))
        paths += _existing(posix, f"{where}.path") if known and posix is not None else [absolute]
    kind = source.format or _format(paths, where)
    if kind == "parquet":
        paths = _checked_parquet(paths, local)
    return SourceFiles(paths, kind)


def _absolute(path: str, root: str) -> str:
    if _SCHEME.match(path) or path.startswith("/"):
        return path
    if _SCHEME.match(root):
        return f"{root.rstrip('/')}/{path}"
    return str(Path(root).absolute() / path)


def _existing(path: str, where: str) -> list[str]:
    if _GLOB.search(path) and not Path(path).exists():
        found = sorted(
            name for name in glob.glob(path, recursive=True) if not Path(name).name.startswith(("_", "."))
        )
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
    return [path]


def _format(paths: list[str], where: str) -> str:
    for name in _file_names(paths):
        for suffix in Path(name).suffixes[::-1]:
            if suffix.lower() in _FORMATS:
                return _FORMATS[suffix.lower()]
    raise ConfigError(
        "the format of the source cannot be told from its name",
        where=f"{where}.format",
        got=paths[0],
        allowed=["csv", "tsv", "parquet", "json"],
        fixes=["set `format`"],
    )


def _file_names(paths: list[str]) -> list[str]:
    names: list[str] = []
    for path in paths:
        names += [str(file) for file in _files_below(Path(path))] if Path(path).is_dir() else [path]
    return names


def _files_below(folder: Path) -> list[Path]:
    inside = (path for path in folder.rglob("*") if path.is_file())
    return sorted(
        p for p in inside if not any(part.startswith(("_", ".")) for part in p.relative_to(folder).parts)
    )


def _checked_parquet(paths: list[str], local: bool) -> list[str]:
    """Read the footers of local files, so that a damaged one is named at once, and unpack Brotli."""
    here = [path for path in paths if Path(path).exists()]
    files = _file_names(here)
    if here and not files:
        raise DataError("the folder holds no files", where=here[0])
    brotli = False
    for file in files[:_MAX_FOOTERS]:
        try:
            footer = pq.read_metadata(file)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                "the file cannot be read as Parquet: it is damaged, truncated, or of another format",
                where=file,
                got=str(error).splitlines()[0],
                fixes=["write the file again", "check `format` of the source"],
            ) from error
        if footer.num_row_groups and footer.num_columns:
            brotli = brotli or footer.row_group(0).column(0).compression == "BROTLI"
    return _without_brotli(files, local) if brotli else paths


def _without_brotli(files: list[str], local: bool) -> list[str]:
    """Rewrite Brotli files, for which Spark has no codec, into a folder that lives as long as the process."""
    if not local:
        raise DataError(
            "Spark cannot read Parquet files packed with Brotli",
            where=files[0],
            fixes=[
                "write them with zstd or snappy",
                "prepare on one machine (local Spark), which unpacks them",
            ],
        )
    folder = Path(tempfile.mkdtemp(prefix="shardrec-unpacked-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for number, name in enumerate(files):
        file = pq.ParquetFile(name)
        with pq.ParquetWriter(
            folder / f"{number:05d}.parquet", file.schema_arrow, compression="snappy"
        ) as writer:
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group))
    return [str(folder)]
