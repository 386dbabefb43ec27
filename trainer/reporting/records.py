"""Reads a run folder for its report; only `config.yaml` and `metrics.jsonl` must be there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from sharding.plan import Plan
from trainer.errors import DataError, PlanError
from trainer.reporting.history import History, read_history
from trainer.run_folder import RunFolder
from trainer.schema import MANIFEST_FILE, SPLITS, Manifest


@dataclass(frozen=True)
class RunRecords:
    """Everything in a run folder that the report shows; None or empty where the folder lacks it.

    Attributes:
        folder: the run folder.
        config: resolved config as plain values.
        config_text: the same as its file has it.
        history: `metrics.jsonl`.
        last_written: when the last record was written, UTC.
        result: `result.json` of a run that finished, or stopped on request and has not gone on since.
        evaluations: `evaluation_<split>.json` by split.
        recommendations: `recommendations.json`.
        manifest: of the data set.
        plan: `plan.json`.
        environment: `env.json`.
        notes: what is there but could not be read.
    """

    folder: Path
    config: dict[str, Any]
    config_text: str
    history: History
    last_written: datetime
    result: dict[str, Any] | None = None
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    recommendations: dict[str, Any] | None = None
    manifest: Manifest | None = None
    plan: Plan | None = None
    environment: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the name of the run."""
        return str(self.config.get("name") or self.folder.name)

    def setting(self, path: str) -> Any:
        """Return a config value by its key path (`train.global_batch_size`), None where it is not set."""
        return value_at(self.config, *path.split("."))


def value_at(tree: Any, *keys: str) -> Any:
    """Return a value inside nested mappings, None where a key is missing."""
    for key in keys:
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(key)
    return tree


def read_run(run_folder: Path) -> RunRecords:
    """Read a run folder.

    The config is read as plain YAML, not as `RunConfig`, so that runs of older versions can be reported.

    Raises:
        DataError: the folder has no readable `config.yaml` or `metrics.jsonl`.
    """
    folder = RunFolder(run_folder)
    config_text = _required(folder.config_file)
    _required(folder.metrics_file)
    notes: list[str] = []
    history = read_history(folder.metrics_file)
    if history.unreadable_lines:
        notes.append(f"metrics.jsonl: {history.unreadable_lines} unreadable line(s) left out")
    return RunRecords(
        folder=run_folder,
        config=_config(config_text, notes),
        config_text=config_text,
        history=history,
        last_written=datetime.fromtimestamp(folder.metrics_file.stat().st_mtime, tz=timezone.utc),
        result=_read_json(folder.result_file, notes),
        evaluations=evaluations_in(run_folder, notes),
        recommendations=_read_json(folder.recommendations_file, notes),
        manifest=_manifest(run_folder, notes),
        plan=_plan(folder.plan_file, notes),
        environment=_read_json(run_folder / "env.json", notes),
        notes=tuple(notes),
    )


def _required(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(
            f"not a run folder: it has no readable {path.name}",
            where=str(path),
            got=error.strerror,
            fixes=["name the folder that `shardrec train` wrote"],
        ) from error


def _config(text: str, notes: list[str]) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError:
        config = None
    if isinstance(config, dict):
        return config
    notes.append("config.yaml: not a YAML mapping")
    return {}


def _read_json(path: Path, notes: list[str]) -> dict[str, Any] | None:
    """Return a JSON object; None where the file is missing, and a note where it is damaged."""
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        notes.append(f"{path.name}: left out, it cannot be read ({error})")
        return None
    if not isinstance(value, dict):
        notes.append(f"{path.name}: left out, it is no JSON object")
        return None
    return value


def evaluations_in(folder: Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Return the evaluations in a folder by split: test first, other names last.

    Args:
        folder: of a run or a baseline.
        notes: takes what is there but could not be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("evaluation_*.json")):
        evaluation = _read_json(path, notes)
        if evaluation is not None:
            found[str(evaluation.get("split") or path.stem.removeprefix("evaluation_"))] = evaluation
    order = [*reversed(SPLITS), *found]
    return {split: found[split] for split in sorted(found, key=order.index)}


def _manifest(folder: Path, notes: list[str]) -> Manifest | None:
    if not (folder / MANIFEST_FILE).exists():
        return None
    try:
        return Manifest.load(folder)
    except DataError as error:
        notes.append(f"{MANIFEST_FILE}: left out, {error.what}")
        return None


def _plan(path: Path, notes: list[str]) -> Plan | None:
    if not path.exists():
        return None
    try:
        return Plan.load(path)
    except PlanError as error:
        notes.append(f"{path.name}: left out, {error.what}")
        return None
