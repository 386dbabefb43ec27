"""MLflow: what a run was told and what it finds, beside other runs."""

from __future__ import annotations

import json
import re
import shutil
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
_PARAMS_AT_ONCE = 100
_PARAM_CHARACTERS = 500
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")
_FILES = ("config.yaml", "manifest.json", "plan.json", "env.json", "result.json")
_GROUPS = {"train": "train", "evaluation": "valid"}


@contextmanager
def tracked(folder: RunFolder, run: RunConfig) -> Iterator[None]:
    """Log a run to MLflow while it trains; nothing where its config does not ask for it.

    A run that goes on goes on in MLflow too. A tracking server that fails while ranks train is told of on
    stderr, and does not end them.

    Args:
        folder: of the run, which holds config, manifest and plan.
        run: the config.

    Raises:
        EnvironmentFault: MLflow is not installed, or does not answer at the start.
    """
    if run.mlflow is None:
        yield
        return
    with _started(folder, run, run.mlflow) as log:
        follower = Follower(folder.path / METRICS_FILE, log.hear)
        follower.start()
        try:
            yield
        finally:
            follower.finish()
            log.files()
        if run.mlflow.registered_model is not None:
            log.register(run.mlflow.registered_model)


def log_evaluation(folder: RunFolder, split: str, metrics: Mapping[str, float], step: int) -> None:
    """Add the metrics of a split to the MLflow run of a run folder, where there is one.

    Args:
        folder: of the run.
        split: whose metrics.
        metrics: by name.
        step: of the checkpoint.
    """
    if not (folder.path / RUN_FILE).exists():
        return
    with _warned():
        saved = read_json(folder.path / RUN_FILE)
        client = _mlflow().MlflowClient(tracking_uri=saved["tracking_uri"])
        _Log(client, saved["run_id"], folder).metrics(_numbers(metrics, f"{split}/"), step)


class _Log:
    """Adds to one MLflow run."""

    def __init__(self, client: Any, run_id: str, folder: RunFolder) -> None:
        self._client, self._id, self._folder = client, run_id, folder

    def hear(self, records: list[Record]) -> None:
        with _warned():
            for record in records:
                group = _GROUPS.get(str(record.get("kind")))
                if group is not None:
                    values = {key: value for key, value in record.items() if key not in ("step", "time")}
                    self.metrics(_numbers(values, f"{group}/"), int(record["step"]))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

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

    def files(self) -> None:
        """Log what the run folder holds besides checkpoints."""
        from trainer.reporting import write_report

        with _warned():
            for name in _FILES:
                if (self._folder.path / name).exists():
                    self._client.log_artifact(self._id, str(self._folder.path / name))
            if (self._folder.path / "result.json").exists():
                self._client.log_artifact(self._id, str(write_report(self._folder.path)))

    def register(self, name: str) -> None:
        """Make a version of a registered model of the run folder and its checkpoint."""
        from mlflow.exceptions import MlflowException

        mlflow = _mlflow()
        with tempfile.TemporaryDirectory() as place:
            packed = Path(place) / MODEL_FOLDER
            _pack_model(self._folder, packed, self._id)
            self._client.log_artifacts(self._id, str(packed), MODEL_FOLDER)
        registry = mlflow.MlflowClient(registry_uri="databricks-uc") if _in_catalog(name) else self._client
        try:
            registry.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._client.get_run(self._id).info.artifact_uri}/{MODEL_FOLDER}"
        version = registry.create_model_version(name, source, self._id)
        _say(f"mlflow: version {version.version} of {name}")


@contextmanager
def _started(folder: RunFolder, run: RunConfig, config: MlflowConfig) -> Iterator[_Log]:
    mlflow = _mlflow()
    if config.tracking_uri is not None:
        mlflow.set_tracking_uri(config.tracking_uri)
    saved = folder.path / RUN_FILE
    try:
        client = mlflow.MlflowClient()
        if saved.exists():
            active = mlflow.start_run(
                run_id=read_json(saved)["run_id"], nested=mlflow.active_run() is not None
            )
        else:
            active = mlflow.start_run(
                experiment_id=_experiment(client, config.experiment),
                run_name=config.run_name or run.name,
                nested=mlflow.active_run() is not None,
            )
    except Exception as error:
        raise EnvironmentFault(
            f"MLflow does not take the run: {first_line(str(error))}",
            where="mlflow",
            got=mlflow.get_tracking_uri(),
            fixes=["see that the tracking server answers", "mlflow: null trains without it"],
        ) from error
    write_json(saved, {"run_id": active.info.run_id, "tracking_uri": mlflow.get_tracking_uri()})
    log = _Log(client, active.info.run_id, folder)
    with active:
        with _warned():
            log.params(run)
        yield log


def _experiment(client: Any, name: str | None) -> str | None:
    if name is None:
        return None
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found is not None else client.create_experiment(name))


def _pack_model(folder: RunFolder, packed: Path, run_id: str) -> None:
    """Write the run folder with the checkpoint to use, and what MLflow must know; inputs are raw columns."""
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    checkpoint = chosen_checkpoint(folder, None)
    run = packed / "run"
    kept = {*_FILES, "checkpoints", RUN_FILE}

    def others(where: str, names: list[str]) -> list[str]:
        if Path(where) == folder.path:
            return [name for name in names if name not in kept]
        return [name for name in names if name != checkpoint] if Path(where) == folder.checkpoints else []

    shutil.copytree(folder.path, run, ignore=others)
    columns = dict.fromkeys(feature.column for feature in folder.manifest().spec.features)
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, column, required=False) for column in columns]),
        outputs=Schema([ColSpec(DataType.double, "score")]),
    )
    model = Model(artifact_path=MODEL_FOLDER, run_id=run_id, signature=signature)
    model.add_flavor("shardrec", run="run", checkpoint=checkpoint)
    model.save(str(packed / "MLmodel"))


def _in_catalog(name: str) -> bool:
    """Return whether a name is one of Unity Catalog, on Databricks."""
    return "." in name and str(_mlflow().get_tracking_uri()).startswith("databricks")


def _mlflow() -> Any:
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
def _warned() -> Iterator[None]:
    """Tell of a failure of MLflow, which is no reason to stop a run."""
    try:
        yield
    except Exception as error:
        _say(f"mlflow: not logged: {first_line(str(error))}")


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


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
