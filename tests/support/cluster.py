"""A real Spark standalone cluster from the pip package alone: on loopback, or on hosts of their own.

```python
with standalone_cluster(tmp_path) as cluster:
    driver = cluster.driver("tell", ranks=2, run_folder=tmp_path / "run")
    out, err = driver.communicate(timeout=300)
```

Drivers are processes of their own: one process can hold one Spark context only, and the tests have theirs.
`cluster.run` is the command line, as a person at a terminal of the driver's host would type it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.hosts import Host
from tests.support.spark_jvm import java_options

REPOSITORY = Path(__file__).parents[2]
_START_SECONDS = 180.0
_COMMAND_SECONDS = 400.0
_PACKAGE = "org.apache.spark.deploy"


@dataclass(frozen=True)
class StandaloneCluster:
    """A running cluster.

    Attributes:
        url: `spark://...` of the master.
        folder: logs and work folders.
        workers: how many.
        cores_per_worker: slots of each.
        host: where drivers run; None for this host.
    """

    url: str
    folder: Path
    workers: int
    cores_per_worker: int
    host: Host | None = None

    def driver(
        self, job: str, *, ranks: int, run_folder: Path, conf: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start `tests.support.driver --on spark` on this cluster, in a process group of its own.

        Args:
            job: function of `tests.support.jobs`.
            ranks: how many.
            run_folder: the run folder.
            conf: Spark settings that win over `executor_settings`.
        """
        run_folder.mkdir(parents=True, exist_ok=True)
        settings = [f"{key}={value}" for key, value in (self.executor_settings() | (conf or {})).items()]
        arguments = ["spark", job, str(ranks), str(run_folder), self.url]
        command = [sys.executable, "-m", "tests.support.driver", *arguments, *settings]
        return subprocess.Popen(
            _on(self.host, command, REPOSITORY),
            cwd=REPOSITORY,
            env=spark_environment(self.host),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *command: object, cwd: Path, conf: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end with the cluster's settings in `spark-defaults.conf` and nowhere else.

        Args:
            command: words of the command.
            cwd: working folder.
            conf: Spark settings that win over `executor_settings`.
        """
        settings = self.folder / "conf" / "spark-defaults.conf"
        settings.parent.mkdir(exist_ok=True)
        lines = [f"{key} {value}" for key, value in (self.executor_settings() | (conf or {})).items()]
        settings.write_text("\n".join(["# written by the tests", *lines, ""]))
        unset = ("JAVA_HOME", "SPARK_HOME", "SPARK_LOCAL_IP", "SPARK_NO_DAEMONIZE")
        environment = {key: value for key, value in spark_environment().items() if key not in unset}
        if str(command[0]).endswith(
            "spark-submit"
        ):  # A script of Spark's own: it knows no Java but JAVA_HOME's.
            environment["JAVA_HOME"] = spark_environment()["JAVA_HOME"]
        environment["SPARK_CONF_DIR"] = str(settings.parent)
        return subprocess.run(
            _on(self.host, [str(word) for word in command], cwd),
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )

    def shardrec(
        self, *arguments: object, cwd: Path, conf: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return self.run(sys.executable, "-m", "jobs.cli", *arguments, cwd=cwd, conf=conf)

    def spark_submit(self, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run the command line through pyspark's own `spark-submit`."""
        script = Path(spark_environment()["SPARK_HOME"]) / "bin" / "spark-submit"
        cli = REPOSITORY / "jobs" / "cli.py"
        return self.run(script, "--master", self.url, cli, *arguments, cwd=cwd)

    def executor_settings(self) -> dict[str, str]:
        """Return settings of small executors that find this checkout."""
        return {
            "spark.executor.cores": str(self.cores_per_worker),
            "spark.executor.memory": "512m",
            "spark.driver.memory": "512m",
            "spark.driver.extraJavaOptions": java_options(),
            "spark.executor.extraJavaOptions": java_options(),
            "spark.executorEnv.PYTHONPATH": str(REPOSITORY),
        }


@contextmanager
def standalone_cluster(
    folder: Path,
    workers: int = 2,
    cores_per_worker: int = 1,
    memory: str = "1g",
    hosts: Sequence[Host] = (),
    worker_options: Sequence[str] = (),
) -> Iterator[StandaloneCluster]:
    """Start a master and workers, wait until they know each other, and stop them by process id.

    Args:
        folder: where logs and work folders go.
        workers: how many.
        cores_per_worker: slots of each worker.
        memory: of each worker.
        hosts: where master and drivers run, then where each worker runs; default this host.
        worker_options: further words of the command that starts a worker.
    """
    first = hosts[0] if hosts else None
    with ExitStack() as stack:
        log = folder / "master.log"
        stack.enter_context(_daemon(log, first, "master.Master", "--port", "0", "--webui-port", "0"))
        url = _wait_for(log, r"Starting Spark master at (spark://\S+)", 1)[0]
        for number in range(workers):
            options = ["--webui-port", "0", "-c", str(cores_per_worker), "-m", memory, *worker_options]
            work = ["-d", str(folder / f"worker_{number}"), url]
            host = hosts[1 + number] if hosts else None
            log_of_worker = folder / f"worker_{number}.log"
            stack.enter_context(_daemon(log_of_worker, host, "worker.Worker", *options, *work))
        _wait_for(log, r"Registering worker (\S+)", workers)
        yield StandaloneCluster(url, folder, workers, cores_per_worker, first)


def spark_environment(host: Host | None = None) -> dict[str, str]:
    """Return this process's environment with what Spark's start scripts need."""
    import pyspark

    from jobs.java import java_home

    return os.environ | {
        "SPARK_HOME": str(Path(pyspark.__file__).parent),
        "JAVA_HOME": str(java_home(os.environ)),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": _address(host),
        "SPARK_NO_DAEMONIZE": "1",
        "SPARK_DAEMON_JAVA_OPTS": java_options(),
    }


def _address(host: Host | None) -> str:
    return "127.0.0.1" if host is None else host.address


def _on(host: Host | None, command: Sequence[str], cwd: Path) -> list[str]:
    return list(command) if host is None else host.command(*command, cwd=cwd)


@contextmanager
def _daemon(log: Path, host: Host | None, name: str, *arguments: str) -> Iterator[None]:
    environment = spark_environment(host)
    program = [f"{environment['SPARK_HOME']}/bin/spark-class", f"{_PACKAGE}.{name}"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            _on(host, [*program, "--host", _address(host), *arguments], log.parent),
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()  # The script has become the JVM by `exec`; on a host, that host ends it.
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(log: Path, pattern: str, count: int) -> list[str]:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        found = re.findall(pattern, log.read_text(errors="replace"))
        if len(found) >= count:
            return [str(item) for item in found]
        time.sleep(0.2)
    raise TimeoutError(f"{log} never said {pattern!r} {count} time(s):\n{log.read_text()[-2000:]}")
