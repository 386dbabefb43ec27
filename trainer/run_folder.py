"""The run folder: what training leaves behind, and where."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sharding.files import write_atomically
from trainer.config import RunConfig
from trainer.errors import DataError
from trainer.schema import MANIFEST_FILE, Manifest
from trainer.storage import Place, as_place

PACKAGES = (
    "shardrec",
    "torch",
    "torchrec",
    "fbgemm-gpu-cpu",
    "fbgemm-gpu",
    "pyspark",
    "pyarrow",
    "numpy",
    "petastorm",
)


STATE_FILE = "state.json"
"""The file of a checkpoint that is written last."""
_CHECKPOINT = re.compile(r"step_\d{8,}")


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run: `config.yaml manifest.json plan.json env.json metrics.jsonl checkpoints/
    result.json log/ tensorboard/ report.html`.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        """Return the path of the resolved config."""
        return self.path / "config.yaml"

    @property
    def plan_file(self) -> Path:
        """Return the path of the sharding plan."""
        return self.path / "plan.json"

    @property
    def metrics_file(self) -> Path:
        """Return the path of the metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of the checkpoints."""
        return self.path / "checkpoints"

    def saved_checkpoints(self) -> list[str]:
        """Return the names of the complete checkpoints, oldest first; copies by other names do not count."""
        names = [path.parent.name for path in self.checkpoints.glob(f"step_*/{STATE_FILE}")]
        return sorted(filter(_CHECKPOINT.fullmatch, names), key=lambda name: (len(name), name))

    @property
    def result_file(self) -> Path:
        """Return the path of the result."""
        return self.path / "result.json"

    @property
    def recommendations_file(self) -> Path:
        """Return the path of the newest recommended lists, which the report shows."""
        return self.path / "recommendations.json"

    def create(self, run: RunConfig, manifest: Manifest, dataset: Place) -> None:
        """Write config, manifest and environment.

        Raises:
            DataError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config_file, run.to_yaml())
            manifest.save(self.path)
            write_json(self.path / "env.json", environment() | {"dataset": str(dataset.absolute())})
        except OSError as error:
            raise DataError(
                f"the run folder cannot be written: {error.strerror}",
                where=str(self.path),
                fixes=["choose another folder with --out"],
            ) from error

    def forget_results(self) -> None:
        """Delete what was computed from the weights of an earlier result, which a further step changes."""
        self.result_file.unlink(missing_ok=True)
        self.recommendations_file.unlink(missing_ok=True)
        for evaluation in self.path.glob("evaluation_*.json"):
            evaluation.unlink()

    def config(self) -> RunConfig:
        """Read the resolved config."""
        return RunConfig.load(self.config_file)

    def manifest(self) -> Manifest:
        """Read the manifest of the data set that the run was made for."""
        return Manifest.load(self.path / MANIFEST_FILE)

    def dataset(self) -> Place:
        """Return the data set folder."""
        return as_place(read_json(self.path / "env.json")["dataset"])

    def dataset_files(self) -> Place:
        """Return the folder that the data set's files lie in, which on a store may be another one by now.

        Raises:
            DataError: there is no data set any more.
            StoreError: the store cannot be read.
        """
        place = self.dataset()
        return place if isinstance(place, Path) else Manifest.load(place).folder_in(place)

    def result(self) -> dict[str, Any]:
        """Read the result.

        Raises:
            DataError: the run has not finished.
        """
        if not self.config_file.exists():
            raise DataError("no such run folder", where=str(self.path))
        if not self.result_file.exists():
            fixes = ["go on with it: shardrec train CONFIG --resume"]
            if self.saved_checkpoints():
                fixes.append("name one of its checkpoints: --checkpoint")
            raise DataError("the run has no result: it has not finished", where=str(self.path), fixes=fixes)
        result: dict[str, Any] = read_json(self.result_file)
        return result


def early_stop_text(result: Mapping[str, Any], total_steps: int | None = None) -> str | None:
    """Return in words where a run stopped early and which checkpoint it uses, or None where it did not.

    Args:
        result: content of `result.json`.
        total_steps: steps that the run would have had, for a result that does not tell.
    """
    steps, total = result.get("steps"), result.get("total_steps") or total_steps
    if result.get("stopped") != "finished" or steps is None or total is None or steps >= total:
        return None
    metric = (result.get("progress") or {}).get("best_metric") or "metric"
    best, checkpoint = result.get("best_step"), result.get("checkpoint")
    if best is None:
        gain = f"was never a number, so the last checkpoint ({checkpoint}) is used"
    else:
        gain = f"last improved at step {best:,}, whose checkpoint ({checkpoint}) is used"
    return f"stopped early at step {steps:,} of {total:,}: the validation {metric} {gain}"


def environment() -> dict[str, Any]:
    """Return host, Python, command and the versions of what computes."""
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cores": os.cpu_count(),
        "command": " ".join(sys.argv),
    }


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that results depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; NaN becomes null, since JSON has no NaN."""
    write_atomically(path, json.dumps(finite(value), indent=1, ensure_ascii=False))


def finite(value: Any) -> Any:
    """Return the value with every NaN and infinity inside it as None."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
