"""MLflow: what a run was told and what it finds, beside other runs."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.errors import EnvironmentFault, first_line
from jobs.following import METRICS_FILE, Follower, Record
from jobs.rank_requests import chosen_checkpoint
from trainer.config import MlflowConfig, RunConfig
from trainer.run_folder import RunFolder, read_json, write_json

RUN_FILE = "mlflow.json"
"""In the run folder: the MLflow run, which a resumed run and later evaluations add to."""
MODEL_FOLDER = "model"
_PARAMS_AT_ONCE, _METRICS_AT_ONCE = 100, 1000
_RETRY_SECONDS = 60.0
_PARAM_CHARACTERS = 500
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")
_FILES = ("config.yaml", "manifest.json", "plan.json", "env.json", "result.json")
_GROUPS = {"train": "train", "evaluation": "valid"}


@contextmanager
def tracked(folder: RunFolder, run: RunConfig) -> Iterator[None]:
    """Log a run to MLflow while it trains; nothing where its config does not ask for it.

    A run that goes on goes on in MLflow too. What a tracking server refuses once ranks train is told of on
    stderr, and ends nothing.

    Args:
        folder: of the run, which holds config, manifest and plan.
        run: the config.

    Raises:
        EnvironmentFault: MLflow is not installed, or does not take the run.
    """
    if run.mlflow is None:
        yield
        return
    log = _begun(folder, run, run.mlflow)
    follower = Follower(folder.path / METRICS_FILE, log.hear)
    follower.start()
    status = "FAILED"
    try:
        yield
        status = "FINISHED" if folder.result()["stopped"] == "finished" else "KILLED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        follower.finish()
        log.end(status)
    if status == "FINISHED" and run.mlflow.registered_model is not None:
        log.register(run.mlflow.registered_model)


def log_evaluation(folder: RunFolder, split: str, metrics: Mapping[str, float], step: int) -> None:
    """Add the metrics of a split to the MLflow run of a run folder, where there is one.

    Args:
        folder: of the run.
        split: whose metrics.
        metrics: by name.
        step: of the checkpoint.
    """
    if (folder.path / RUN_FILE).exists():
        with _warned("the evaluation is not logged"):
            saved = read_json(folder.path / RUN_FILE)
            client = _mlflow().MlflowClient(tracking_uri=saved["tracking_uri"])
            client.log_batch(saved["run_id"], metrics=_points(_numbers(metrics, f"{split}/"), step))


class _Log:
    """Adds to one MLflow run, by a client: the user's notebook keeps its own active run and settings."""

    def __init__(self, client: Any, saved: dict[str, Any], folder: RunFolder) -> None:
        self._client, self._saved, self._folder = client, saved, folder
        self._id: str = saved["run_id"]
        self._waiting: list[Any] = []
        self._next_try = 0.0

    def hear(self, records: list[Record]) -> None:
        """Log records; what a server does not take waits a minute, and is sent with what follows."""
        for record in records:
            group = _GROUPS.get(str(record.get("kind")))
            if group is not None:
                values = {key: value for key, value in record.items() if key not in ("step", "time")}
                self._waiting += _points(_numbers(values, f"{group}/"), int(record["step"]))
        if time.monotonic() >= self._next_try:
            self._send()

    def _send(self) -> None:
        self._next_try = time.monotonic() + _RETRY_SECONDS
        with _warned("metrics wait"):
            while self._waiting:
                self._client.log_batch(self._id, metrics=self._waiting[:_METRICS_AT_ONCE])
                del self._waiting[:_METRICS_AT_ONCE]
            self._next_try = 0.0

    def params(self, run: RunConfig) -> None:
        """Log the config by key; what the run was told before stays."""
        from mlflow.entities import Param

        known = self._client.get_run(self._id).data.params
        params = [
            Param(name, text[:_PARAM_CHARACTERS])
            for name, text in _leaves(run.as_dict())
            if name not in known
        ]
        for first in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=params[first : first + _PARAMS_AT_ONCE])

    def end(self, status: str) -> None:
        """Log what the run folder holds besides checkpoints, and end the MLflow run."""
        from trainer.reporting import write_report

        self._send()
        with _warned("the files are not logged"):
            if (self._folder.path / "result.json").exists():
                self._client.log_artifact(self._id, str(write_report(self._folder.path)))
            for name in _FILES:
                if (self._folder.path / name).exists():
                    self._client.log_artifact(self._id, str(self._folder.path / name))
        with _warned("the end of the run is not logged"):
            self._client.set_terminated(self._id, status)

    def register(self, name: str) -> None:
        """Make a version of a registered model of the run folder and its checkpoint, once."""
        checkpoint = chosen_checkpoint(self._folder, None)
        version = {"name": name, "checkpoint": checkpoint}
        if self._saved.get("registered") == version:
            return
        with _warned(f"no version of {name} is made; the same train command tries again"):
            self._upload(checkpoint)
            tracking_uri = self._saved["tracking_uri"]
            registry = _mlflow().MlflowClient(tracking_uri, registry_of(name, tracking_uri))
            try:
                registry.create_registered_model(name)
            except _mlflow().exceptions.MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"{self._client.get_run(self._id).info.artifact_uri}/{MODEL_FOLDER}"
            made = registry.create_model_version(name, source, self._id)
            write_json(self._folder.path / RUN_FILE, self._saved | {"registered": version})
            _say(f"version {made.version} of {name}")

    def _upload(self, checkpoint: str) -> None:
        """Upload the run folder with its checkpoint, and what MLflow must know; inputs are raw columns."""
        from mlflow.models import Model
        from mlflow.models.signature import ModelSignature
        from mlflow.types import ColSpec, DataType, Schema

        run = f"{MODEL_FOLDER}/run"
        for name in _FILES:
            self._client.log_artifact(self._id, str(self._folder.path / name), run)
        stored = str(self._folder.checkpoints / checkpoint)
        self._client.log_artifacts(self._id, stored, f"{run}/checkpoints/{checkpoint}")
        columns = dict.fromkeys(feature.column for feature in self._folder.manifest().spec.features)
        signature = ModelSignature(
            inputs=Schema([ColSpec(DataType.string, column, required=False) for column in columns]),
            outputs=Schema([ColSpec(DataType.double, "score")]),
        )
        model = Model(artifact_path=MODEL_FOLDER, run_id=self._id, signature=signature)
        model.add_flavor("shardrec", run="run", checkpoint=checkpoint)
        with tempfile.TemporaryDirectory() as place:
            described = Path(place) / "MLmodel"
            model.save(str(described))
            self._client.log_artifact(self._id, str(described), MODEL_FOLDER)


def _begun(folder: RunFolder, run: RunConfig, config: MlflowConfig) -> _Log:
    mlflow, file = _mlflow(), folder.path / RUN_FILE
    saved = read_json(file) if file.exists() else {}
    uri = saved.get("tracking_uri") or config.tracking_uri or mlflow.get_tracking_uri()
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        if saved:
            client.update_run(saved["run_id"], status="RUNNING")
        else:
            made = client.create_run(
                _experiment(client, config.experiment), run_name=config.run_name or run.name
            )
            saved = {"run_id": made.info.run_id, "tracking_uri": uri}
        log = _Log(client, saved, folder)
        log.params(run)
    except Exception as error:
        raise EnvironmentFault(
            f"MLflow does not take the run: {first_line(str(error))}",
            where="mlflow",
            got=uri,
            fixes=[
                "see that the tracking server answers, and may be written to",
                f"where the MLflow run was deleted: delete {file}, which names it",
                "mlflow: null trains without it",
            ],
        ) from error
    write_json(file, saved)
    return log


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found is not None else client.create_experiment(name))


def registry_of(name: str, tracking_uri: str) -> str | None:
    """Return the registry of a model where that is Unity Catalog, of the same profile; else None.

    Args:
        name: of the registered model.
        tracking_uri: `databricks`, `databricks://PROFILE`, or of another server.
    """
    scheme, separator, profile = tracking_uri.partition("://")
    return f"databricks-uc{separator}{profile}" if "." in name and scheme == "databricks" else None


def _mlflow() -> Any:
    # Each call would be tried for minutes, and a run has other things to do.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        import mlflow
    except ImportError as error:
        raise EnvironmentFault(
            "MLflow is not installed",
            where="mlflow",
            got=str(error),
            fixes=["pip install mlflow-skinny", "mlflow: null trains without it"],
        ) from error
    return mlflow


@contextmanager
def _warned(what: str) -> Iterator[None]:
    """Tell of a failure of MLflow, which is no reason to stop a run."""
    try:
        yield
    except Exception as error:
        _say(f"{what}: {first_line(str(error))}")


def _say(line: str) -> None:
    print(f"mlflow: {line}", file=sys.stderr)  # noqa: T201


def _points(values: Mapping[str, float], step: int) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, value, now, step) for name, value in values.items()]


def _numbers(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return the numbers by names that MLflow takes: `hr@10` is `hr_at_10`."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[_NOT_IN_NAMES.sub("_", f"{prefix}{name}".replace("@", "_at_"))] = float(value)
    return found


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the keys of a config, joined by dots, with their values; lists as JSON."""
    for key, value in values.items():
        name = _NOT_IN_NAMES.sub("_", f"{prefix}{key}")
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{name}.")
        elif value is not None and not isinstance(value, Mapping):
            yield name, value if isinstance(value, str) else json.dumps(value)
