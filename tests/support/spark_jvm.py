"""How the JVMs of the tests' Spark start: from an archive of classes, without the compiler for long jobs.

    python -m tests.support.spark_jvm

writes the archive (class data sharing), 150 MB beside the environment's packages. With it a JVM takes half
the processor time until its first query has run, without it everything works as well. The JVM itself looks
whether the archive is of its version and class path.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

_PLAIN = "-XX:TieredStopAtLevel=1 -XX:-UsePerfData"
_ARCHIVE = Path(sys.prefix) / "spark.jsa"
CONF_FOLDER = Path(sys.prefix) / "spark-conf"
"""An empty folder: there is no archive for a class path with one that holds files."""


def java_options() -> str:
    """Return the options of any JVM of Spark.

    There are no files of statistics, which go by the process id: several namespaces may have the same one.
    """
    # Silent where the class path is another one, as in a driver with a folder of settings.
    return f"{_PLAIN} -XX:SharedArchiveFile={_ARCHIVE} -Xlog:disable" if _ARCHIVE.exists() else _PLAIN


def environment() -> dict[str, str]:
    """Return what drivers that are started from here read, those of command lines too."""
    CONF_FOLDER.mkdir(exist_ok=True)
    return {"SPARK_CONF_DIR": str(CONF_FOLDER), "SPARK_SUBMIT_OPTS": java_options()}


def write_archive() -> None:
    """Do what many tests do in a session, and keep the classes that it has loaded."""
    from pyspark import SparkContext

    from jobs import RunConfig, prepare
    from jobs.session import spark_session

    unfinished = _ARCHIVE.with_suffix(".unfinished")
    os.environ |= environment()
    os.environ["SPARK_SUBMIT_OPTS"] = f"{_PLAIN} -XX:ArchiveClassesAtExit={unfinished} -Xlog:disable"
    with tempfile.TemporaryDirectory() as folder:
        spark = spark_session("spark_jvm", master="local[2]", conf={"spark.driver.memory": "1g"})
        lines = [f"{n % 7},{n % 11},{n % 5},{n}" for n in range(500)]
        Path(folder, "events.csv").write_text("\n".join(["user,item,rating,time", *lines]))
        prepare(None, RunConfig.from_dict(_run(folder)), Path(folder) / "data", spark=spark)
        jvm = SparkContext._gateway.proc
        spark.stop()
        jvm.stdin.close()
        jvm.wait()
    unfinished.replace(_ARCHIVE)


def _run(folder: str) -> dict[str, Any]:
    history = {"user": "user", "item": "item", "time": "time", "max_length": 5, "where": "rating >= 3"}
    count = {"by": "user", "time": "time", "what": "count"}
    return {
        "name": "spark_jvm",
        "data": {
            "root": folder,
            "source": {"path": "events.csv", "format": "csv", "header": True},
            "label": {"column": "rating", "positive_at_least": 3},
        },
        "features": {
            "dense": [{"name": "events", "earlier": count, "ops": [{"fill": 0}, "log1p"]}],
            "sparse": [{"columns": ["user", "item"], "ops": ["vocabulary"]}],
            "sequence": [{"name": "liked", "history": history, "table": "item"}],
        },
        "model": {"name": "dlrm"},
    }


if __name__ == "__main__":
    write_archive()
