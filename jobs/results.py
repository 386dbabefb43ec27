"""What the verbs hand on: a data set, a run, an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.run_folder import RunFolder
from trainer.schema import Manifest
from trainer.storage import Place, as_place


@dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
        path: its folder, local or on a store.
        manifest: what it holds.
        report: the data report as text; empty for a data set that was opened.
        seconds: time that preparing took.
    """

    path: Place
    manifest: Manifest
    report: str = ""
    seconds: float = 0.0

    @classmethod
    def open(cls, path: str | Place) -> Dataset:
        """Open a data set folder: a path, or a URL such as `s3://bucket/prepared/ads`.

        Raises:
            DataError: the folder is no data set.
            StoreError: the store cannot be read.
        """
        return cls(as_place(path), Manifest.load(path))

    def as_json(self) -> dict[str, Any]:
        """Return the `--json` form of `prepare`."""
        rows = {name: split.rows for name, split in self.manifest.splits.items()}
        return {"dataset": str(self.path), "rows": rows, "seconds": round(self.seconds, 2)}


@dataclass(frozen=True)
class TrainResult:
    """A finished (or interrupted) run.

    Attributes:
        path: run folder.
        result: content of `result.json`. Its `samples_per_second` are rows of all ranks over the training
            time of the last launch, without set-up, evaluations and checkpoints.
    """

    path: Path
    result: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> TrainResult:
        """Open a run folder.

        Raises:
            DataError: the folder holds no finished run.
        """
        return cls(Path(path), RunFolder(Path(path)).result())

    @property
    def metrics(self) -> dict[str, Any]:
        """Return the validation metrics of the chosen checkpoint."""
        return dict(self.result["metrics"] or {})

    def as_json(self) -> dict[str, Any]:
        """Return the `--json` form of `train`."""
        kept = {key: self.result[key] for key in ("samples_per_second", "steps", "stopped", "checkpoint")}
        # Runs of earlier versions do not tell these.
        told = {key: self.result.get(key) for key in ("total_steps", "best_step", "rows_skipped")}
        return {"run": str(self.path), "metrics": self.metrics, **kept, **told}


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a split.

    Attributes:
        split: which.
        rows: rows counted.
        metrics: by name.
        by: metrics by value of a column, `{column: [{"value", "rows", "metrics"}]}`.
        rows_skipped: rows of damaged row groups, not counted (`data.on_corrupt: skip`).
        ids: of tables whose ids come and go, by table: `lookups`, and the `oov_share` of them without a row.
        confidence: level of the intervals, None where there are none.
        intervals: lower and upper end of metrics, by name; those of `by` are beside its metrics.
    """

    split: str
    rows: int
    metrics: dict[str, float]
    by: dict[str, list[dict[str, Any]]]
    rows_skipped: int = 0
    ids: dict[str, dict[str, float]] = field(default_factory=dict)
    confidence: float | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the `--json` form of `evaluate`."""
        told = {"split": self.split, "rows": self.rows, "rows_skipped": self.rows_skipped}
        ids = {"ids": self.ids} if self.ids else {}
        intervals = {"confidence": self.confidence, "intervals": self.intervals} if self.intervals else {}
        return {**told, "metrics": self.metrics, **intervals, "by": self.by, **ids}
