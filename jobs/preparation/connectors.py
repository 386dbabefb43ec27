"""What Spark itself needs to read raw rows from a store, named where it is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import EnvironmentFault, first_line

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_MISSING = re.compile(r"No FileSystem for scheme|Class \S*\.fs\.\S+ not found")
_URL = re.compile(r"\b([a-z][a-z0-9+.-]+)://[^\s'\",;)]*")
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a", "s3n"), "org.apache.hadoop:hadoop-aws"),
    **dict.fromkeys(("abfs", "abfss", "wasb", "wasbs"), "org.apache.hadoop:hadoop-azure"),
}


def has_connector(spark: SparkSession, url: str) -> bool:
    """Return whether Spark itself can open a URL: `fs.<scheme>.impl` names a class that is there.

    Args:
        spark: the session; one of Spark Connect, which does not tell, is taken to have it.
        url: of a file or folder.
    """
    jvm = getattr(spark, "_jvm", None)
    if jvm is None:
        return True
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    try:
        jvm.org.apache.hadoop.fs.FileSystem.getFileSystemClass(url.partition(":")[0].lower(), conf)
    except Exception as error:
        if type(error).__module__.startswith(("pyspark", "py4j")):
            return not _MISSING.search(str(error))
        raise
    return True


def missing_connector(text: str, where: str) -> EnvironmentFault | None:
    """Return the error of a source whose store Spark has no connector for, else None.

    Args:
        text: of Spark's error, which does not name the file.
        where: the paths of the source.
    """
    url = _URL.search(where)
    if url is None or not _MISSING.search(text):
        return None
    scheme = url.group(1)
    fixes = [*_fixes(scheme), "copy the files to a folder that Spark reaches, and name it: --input FOLDER"]
    return EnvironmentFault(
        f"Spark has no connector for {scheme}:// here, so it cannot read these raw rows",
        where=where,
        got=first_line(text),
        fixes=fixes,
    )


def _fixes(scheme: str) -> list[str]:
    package = _PACKAGES.get(scheme)
    own = (
        f"pip install the package that fsspec names for {scheme}://, through which the files are then copied"
    )
    if package is None:
        return [
            f"add the Hadoop connector of {scheme}:// to Spark: spark.jars.packages in spark-defaults.conf",
            own,
        ]
    setting = f"spark.jars.packages={package}:{_hadoop_version()}"
    spelling = " and write s3a:// in place of s3://" if scheme in ("s3", "s3n") else ""
    return [f"set {setting} in spark-defaults.conf (or spark-submit --packages){spelling}", own]


def _hadoop_version() -> str:
    """Return the version of the Hadoop that came with pyspark: a connector must be of the same."""
    import pyspark

    jars = sorted(Path(pyspark.__file__).parent.glob("jars/hadoop-client-api-*.jar"))
    return jars[-1].stem.removeprefix("hadoop-client-api-") if jars else "<version of Spark's Hadoop>"
