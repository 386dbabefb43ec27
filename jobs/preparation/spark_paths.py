"""How Spark is told of files of this machine, whatever file system a bare path means to it."""

from __future__ import annotations

from pathlib import Path

_VOLUMES = "/Volumes/"


def spark_path(path: str | Path) -> str:
    """Return by what name Spark finds a file or folder that this machine sees.

    To Spark a path without a scheme is one of `fs.defaultFS`: HDFS on many clusters, DBFS on Databricks.

    Args:
        path: absolute, or relative to the working directory; it may be a pattern.
    """
    text = str(Path(path).absolute())
    return text if is_volume(text) else f"file:{text}"


def is_volume(path: str) -> bool:
    """Return whether an absolute path lies in a volume of Databricks, where Spark and this machine agree."""
    return path.startswith(_VOLUMES) and Path(_VOLUMES).is_dir()
