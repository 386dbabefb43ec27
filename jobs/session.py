"""The Spark session: the one that is there, or a quiet local one."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.attended import interrupts_waiting
from jobs.errors import EnvironmentFault, first_line
from jobs.java import java_home, java_options, through_shim
from sharding.errors import UserError
from sharding.machine_memory import memory_bytes

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# What Spark takes; it says so in a Java trace only.
_MASTER = re.compile(r"local(-cluster)?(\[.+\])?|yarn|(spark|k8s|mesos)://.+")
_CONNECT_SECONDS = 5.0

# What the same rows and queries must give in every time zone and Spark version.
_RESULTS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "false",  # Spark 4 turned it on.
    "spark.sql.caseSensitive": "false",
}
NANOSECONDS = "spark.sql.legacy.parquet.nanosAsLong"
"""Whether timestamps in nanoseconds, which Spark has no type for, are read as integers."""
_WHOLE_FILES = {
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    NANOSECONDS: "true",
}
_SAME_EVERYWHERE = {
    **_RESULTS,
    **_WHOLE_FILES,
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
        with through_shim(), interrupts_waiting() as wait_again:
            if "SPARK_REMOTE" not in os.environ:
                SparkContext.getOrCreate(SparkConf().setAll([*options.items(), *settings.items()]))
                wait_again()  # Spark has put its own handler in place.
            session = builder.getOrCreate()
    except Exception as error:
        raise _no_start(error, master) from error
    _quiet_query_contexts()
    return session


def finds_paths_here(master: str | None) -> bool:
    """Return whether a session that is still to start will find plain paths on this machine, for all we know.

    Args:
        master: Spark master that is asked for; default see `spark_session`.
    """
    from pyspark.sql import SparkSession

    environment = os.environ
    theirs = {"PYSPARK_GATEWAY_PORT", "SPARK_REMOTE", "HADOOP_CONF_DIR", "YARN_CONF_DIR"} & environment.keys()
    if theirs or SparkSession.getActiveSession() is not None:
        return False
    defaults, folder = _spark_defaults(environment), _conf_folder(environment)
    other = "spark.hadoop.fs.defaultFS" in defaults or (folder and Path(folder, "core-site.xml").exists())
    return not other and _is_local(master or defaults.get("spark.master", "local[*]"))


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
    options = f"{java_options(local=_is_local(master))} {defaults.get('spark.driver.extraJavaOptions', '')}"
    return {
        "spark.ui.showConsoleProgress": "false",
        **{key: value for key, value in guesses.items() if key not in defaults},
        **_SAME_EVERYWHERE,
        "spark.driver.extraJavaOptions": options.strip(),
    }


@contextmanager
def same_results(spark: SparkSession, *, reads_files: bool = True) -> Iterator[None]:
    """Give a session that somebody else has started the settings on which results depend, for a while.

    Args:
        spark: the session.
        reads_files: whether files are read by our own rules, which do not pass over damaged ones; False where
            the rows are a DataFrame, whose own reading stays as it is.
    """
    wanted = {**_RESULTS, **(_WHOLE_FILES if reads_files else {})}
    before = {key: spark.conf.get(key) for key in wanted}
    changed = {key: value for key, value in wanted.items() if before[key] != value}
    for key, value in changed.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key in changed:
            spark.conf.set(key, before[key])


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
                "start one: docs/clusters.md (Spark)",
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
        "Spark does not start", where=where, got=first_line(str(error)) or type(error).__name__, fixes=fixes
    )


def is_local(spark: SparkSession) -> bool:
    """Return whether all tasks of a session run on the driver's machine."""
    return _is_local(spark.conf.get("spark.master", ""))


def over_connect(spark: SparkSession) -> bool:
    """Return whether a session is one of Spark Connect, whose JVM is another process's."""
    return type(spark).__module__.startswith("pyspark.sql.connect")


def reads_elsewhere(spark: SparkSession) -> bool:
    """Return whether a path without a scheme is of another file system to Spark than that of its host.

    So it is with HDFS and on Databricks (`fs.defaultFS`); Spark Connect does not tell.
    """
    try:
        hadoop = spark._jsparkSession.sessionState().newHadoopConf()
        default = str(hadoop.get("fs.defaultFS", "file:///"))
    except Exception:  # Spark Connect has no JVM here, and says so in its own ways.
        return not is_local(spark)
    return not default.startswith("file:")


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
    try:
        lines = (
            Path(_conf_folder(environment) or "", "spark-defaults.conf")
            .read_text(encoding="utf-8")
            .splitlines()
        )
    except OSError:
        return {}
    pairs = [re.split(r"\s*[=:\s]\s*", line.strip(), maxsplit=1) for line in lines if line.strip()]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and not pair[0].startswith("#")}


def _conf_folder(environment: Mapping[str, str]) -> str | None:
    """Return the folder that Spark reads its settings from, if there is one."""
    home = environment.get("SPARK_HOME")
    return environment.get("SPARK_CONF_DIR") or (f"{home}/conf" if home else None)


def _local_settings() -> dict[str, str]:
    memory_gib = memory_bytes() / 2**30
    return {
        "spark.driver.memory": f"{max(1, min(16, int(memory_gib / 3)))}g",
        "spark.ui.enabled": "false",
        "spark.python.daemon.module": "jobs.python_daemon",
        "spark.sql.shuffle.partitions": str(max(8, 4 * (os.cpu_count() or 1))),
        # Building a compressed cache takes longer than the passes over it save on one machine.
        "spark.sql.inMemoryColumnarStorage.compressed": "false",
        "spark.sql.warehouse.dir": str(Path(tempfile.gettempdir()) / "shardrec-warehouse"),
    }


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
