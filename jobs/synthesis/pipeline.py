"""`synth` from its options to a committed folder: Spark's tasks write files, the driver adds up counts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.attended import PHASES
from jobs.preparation.commit import output_folder, staged_folder
from jobs.preparation.failures import named_failures
from jobs.synthesis.folder import CONFIG_FILE, SYNTHETIC, check_nothing_added, write_beside_rows
from jobs.synthesis.shape import Shape
from jobs.synthesis.truth import LEVELS, Best, best_reachable, fit_truth
from jobs.synthesis.writing import ROWS_FOLDER, Counts, FileWriter, file_name
from trainer.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class Synthesis:
    """A folder of synthetic rows.

    Attributes:
        path: the folder: `rows/`, `config.yaml`, `SYNTHETIC.md`, `synthetic.json`.
        rows: how many.
        positives: rows with label 1.
        best: what no model can be expected to beat on all rows.
        seconds: time that it took.
    """

    path: Path
    rows: int
    positives: int
    best: Best
    seconds: float

    @property
    def config(self) -> Path:
        """Return the run config that prepares the rows."""
        return self.path / CONFIG_FILE

    def text(self) -> str:
        """Return the summary for the terminal."""
        return (
            f"SYNTHETIC data: {self.path}\n"
            f"{self.rows:,} synthetic rows, {self.positives:,} positive ({self.positives / self.rows:.4f}), "
            f"{self.rows / self.seconds:,.0f} rows/s\n"
            f"best that a model can be expected to reach on all rows: {self.best.text()}\n"
            f"next: shardrec prepare {self.config}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the `--json` form of `synth`."""
        best = {"auc": self.best.auc, "log_loss": self.best.log_loss, "ne": self.best.ne}
        return {
            "folder": str(self.path),
            "synthetic": True,
            "rows": self.rows,
            "positives": self.positives,
            "best": best,
            "config": str(self.config),
            "seconds": round(self.seconds, 2),
        }


def synthesize(
    out: str | Path, shape: Shape | None = None, *, spark: SparkSession | None = None, **options: Any
) -> Synthesis:
    """Write synthetic rows in the Criteo shape with PySpark, and say how well they can be predicted at best.

    Args:
        out: folder to make (local or mounted on every host); earlier synthetic data there is replaced.
        shape: what to make; or by name:
        spark: session; by default the active one, or a new local one.
        options: fields of `Shape`: `synthesize("data/synth", rows=1_000_000, multi_hot=2)`.

    Raises:
        ConfigError: an option does not exist, or its value is wrong.
        DataError: the folder holds something else than synthetic data.
        UserError: no permission to write, or the disk is full.
    """
    from jobs.session import spark_session

    start = time.perf_counter()
    shape = Shape.of(**options) if shape is None else shape
    target = output_folder(out)
    spark = spark or spark_session("shardrec synth")
    with named_failures(str(target)):
        check_nothing_added(target)
    with staged_folder(target, SYNTHETIC) as staging:
        truth = fit_truth(shape)
        PHASES.info("writing %s synthetic rows in %s file(s)", f"{shape.rows:,}", shape.num_files)
        folder = staging / ROWS_FOLDER
        folder.mkdir()
        rows, positives = _write(spark, FileWriter(shape, truth, str(folder)))
        _check_written(shape, folder, rows)
        best = best_reachable(rows)
        write_beside_rows(staging, target, shape, truth, best, int(positives.sum()))
    return Synthesis(target, shape.rows, int(positives.sum()), best, time.perf_counter() - start)


def _write(spark: SparkSession, writer: FileWriter) -> tuple[Counts, Counts]:
    """Let every task write its files; return rows and positives by level of the true probability."""
    files = writer.shape.num_files
    counted = spark.range(0, files, 1, numPartitions=files).mapInArrow(
        writer, "level long, rows long, positives long"
    )
    rows, positives = np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64)
    for level, of_level, positive in counted.groupBy("level").sum("rows", "positives").collect():
        rows[level], positives[level] = of_level, positive
    return rows, positives


def _check_written(shape: Shape, folder: Path, rows: Counts) -> None:
    """Check that the driver sees the files that the tasks wrote, and remove what stopped tasks left."""
    for unfinished in folder.glob(".*"):
        unfinished.unlink()
    missing = [
        name
        for number in range(shape.num_files)
        if not (folder / (name := file_name(shape, number))).is_file()
    ]
    if missing:
        raise DataError(
            f"{len(missing)} of {shape.num_files} files are not where this machine looks for them",
            where=str(folder),
            got=f"no {missing[0]}",
            fixes=["choose an --out that is mounted on every host of the cluster", "--master local[*]"],
        )
    assert int(rows.sum()) == shape.rows, "every row is counted once"
