"""What the machine and the environment of this process have that runs depend on."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from jobs.diagnosis.findings import Finding
from jobs.errors import EnvironmentFault
from jobs.java import java_home, java_version
from sharding.machine_cores import available_cores
from sharding.machine_memory import memory_bytes
from sharding.network import leads_here

_GIB = 2**30
# Docker gives a container 64 MiB; NCCL hands over through it what ranks of a host exchange.
_LEAST_SHM = 2**30
_LEAST_DISK = 10 * _GIB
_LEAST_MEMORY = 4 * _GIB
_OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_OWN_PACKAGES = ("jobs", "trainer", "sharding")


def machine_findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look at everything that needs no package.

    Args:
        environment: usually `os.environ`.
    """
    yield from java_findings(environment)
    yield from spark_home_findings(environment)
    yield from own_packages_findings()
    yield from name_findings(socket.gethostname(), environment)
    yield from memory_findings(available_cores(), memory_bytes())
    yield from shm_findings(Path("/dev/shm"))  # noqa: S108
    yield from disk_findings(environment)
    yield from variable_findings(environment)


def java_findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look for the Java that Spark will take."""
    try:
        least = 8 if metadata.version("pyspark").startswith("3.") else 17
    except metadata.PackageNotFoundError:
        least = 17
    try:
        home = java_home(environment, least_version=least)
    except EnvironmentFault as error:
        yield Finding("Java", "fault", f"{error.what}: {error.got}", tuple(error.fixes))
        return
    said = f"{java_version(home)} ({home})"
    wanted = environment.get("JAVA_HOME")
    if wanted and Path(wanted) != home:
        fixes = ("unset JAVA_HOME", f"export JAVA_HOME={home}")
        yield Finding("Java", "note", f"{said}, as JAVA_HOME={wanted} holds none that is new enough", fixes)
    else:
        yield Finding("Java", "fine", said)


def spark_home_findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look whether `SPARK_HOME` is of another version than the Python package."""
    home = environment.get("SPARK_HOME")
    try:
        version = metadata.version("pyspark")
    except metadata.PackageNotFoundError:
        return
    if not home:
        return
    jars = sorted(Path(home, "jars").glob("spark-core_*.jar"))
    if not jars:
        yield Finding("SPARK_HOME", "fault", f"{home} holds no Spark", ("unset SPARK_HOME",))
        return
    of_home = jars[0].stem.rsplit("-", 1)[-1]
    if of_home != version:
        fixes = ("unset SPARK_HOME", f"pip install pyspark=={of_home}")
        said = f"{home} is Spark {of_home}, and the package pyspark {version}"
        yield Finding("SPARK_HOME", "fault", said, fixes)
    else:
        yield Finding("SPARK_HOME", "fine", f"{home}, {of_home}")


def own_packages_findings() -> Iterator[Finding]:
    """Look whether another package of the same name hides one of ours."""
    folders = {name: _folder(name) for name in _OWN_PACKAGES}
    ours = Path(__file__).resolve().parents[1].parent
    hidden = {name: folder for name, folder in folders.items() if folder != ours}
    for name, folder in hidden.items():
        said = f"`import {name}` finds another package, in {folder or 'no folder'}; ours is in {ours}"
        fixes = (f"leave the folder that holds another `{name}`", "take it out of PYTHONPATH", "rename it")
        yield Finding("shardrec", "fault", said, fixes)
    if not hidden:
        yield Finding("shardrec", "fine", f"in {ours}")


def _folder(name: str) -> Path | None:
    found = importlib.util.find_spec(name)
    return Path(found.origin).resolve().parents[1] if found is not None and found.origin else None


def name_findings(name: str, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look whether this host's own name leads to an address, and to one that other hosts reach.

    Args:
        name: of the host.
        environment: where the user may have said what to use in its place.
    """
    try:
        address = socket.gethostbyname(name)
    except OSError:
        fixes = (f"add `127.0.0.1 {name}` to /etc/hosts", "with docker: --hostname and --add-host")
        said = f"{name} has no address: Spark looks its own name up"
        yield Finding("host name", "fault", said, fixes)
        return
    chosen = [
        key for key in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "SPARK_LOCAL_IP") if key in environment
    ]
    said = f"{name} is {address}" + "".join(f", {key}={environment[key]}" for key in chosen)
    if not chosen and not leads_here(name):
        fixes = (
            "on one host: nothing",
            f"on several: give {name} its address in /etc/hosts, or start Spark's Master and Worker with "
            "--host ADDRESS and set NCCL_SOCKET_IFNAME for GPUs (ranks on CPU find their interface)",
        )
        yield Finding("host name", "note", f"{said}, where no other host reaches this one", fixes)
    else:
        yield Finding("host name", "fine", said)


def memory_findings(cores: int, memory: int) -> Iterator[Finding]:
    """Look at what this process may use, its container's limits included.

    Args:
        cores: how many.
        memory: bytes.
    """
    said = f"{cores} cores, {memory / _GIB:.1f} GiB of memory"
    if memory < _LEAST_MEMORY:
        fixes = ("give the container or machine 4 GiB", "prepare with spark.driver.memory=1g")
        yield Finding("machine", "note", said, fixes)
    else:
        yield Finding("machine", "fine", said)


def shm_findings(shm: Path) -> Iterator[Finding]:
    """Look at the memory that processes share through files.

    Args:
        shm: its folder.
    """
    try:
        size = shutil.disk_usage(shm).total
    except OSError:
        return
    said = f"{size / _GIB:.1f} GiB"
    if size < _LEAST_SHM:
        fixes = (
            "docker run --shm-size=2g, in compose.yaml `shm_size: 2g`",
            "mount -o remount,size=2g /dev/shm",
        )
        yield Finding(
            str(shm), "note", f"{said}: GPU ranks that share a host may fail with a bus error", fixes
        )
    else:
        yield Finding(str(shm), "fine", said)


def disk_findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look at the room for what Spark and tasks write meanwhile."""
    folder = environment.get("SPARK_LOCAL_DIRS", tempfile.gettempdir()).split(",")[0]
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        fixes = (
            "make the folder",
            "unset SPARK_LOCAL_DIRS" if "SPARK_LOCAL_DIRS" in environment else "set TMPDIR",
        )
        yield Finding("scratch", "fault", f"{folder}: {error.strerror}", fixes)
        return
    said = f"{folder}, {free / _GIB:.0f} GiB free"
    if not os.access(folder, os.W_OK):
        yield Finding(
            "scratch", "fault", f"{folder} is not writable", ("export TMPDIR and SPARK_LOCAL_DIRS=FOLDER",)
        )
    elif free < _LEAST_DISK:
        fixes = ("export SPARK_LOCAL_DIRS=FOLDER on a larger disk", "free some of it")
        yield Finding("scratch", "note", f"{said}: preparing takes about the bytes of the rows", fixes)
    else:
        yield Finding("scratch", "fine", said)


def variable_findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look for variables that an earlier command has left behind."""
    left = [name for name in _OF_LAUNCHERS if name in environment]
    if left and "TORCHELASTIC_RUN_ID" not in environment:
        said = f"{', '.join(left)} are set, as a launcher of ranks would set them, and this is no rank"
        yield Finding("variables", "note", said, (f"unset {' '.join(left)}",))
    threads = environment.get("OMP_NUM_THREADS")
    if threads is not None and threads != "1":
        said = f"OMP_NUM_THREADS={threads} holds for Spark's tasks; ranks share their host's cores without it"
        yield Finding("variables", "note", said, ("unset OMP_NUM_THREADS",))
