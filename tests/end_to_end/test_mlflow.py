"""MLflow shows a run as its files do, goes on with it, and gets versions; a server that fails ends no run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import Dataset, RunConfig, evaluate, train
from jobs.errors import EnvironmentFault
from trainer.errors import ConfigError
from trainer.usage import Meter

mlflow = pytest.importorskip("mlflow")


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store of files, which newer MLflow has on request alone."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file://{tmp_path}/mlruns"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri)


def shown(client: Any, experiment: str) -> Any:
    [run] = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return run


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_a_run_is_shown_as_its_files_tell_and_goes_on(
    run: RunConfig, data: Dataset, client: Any, tmp_path: Path
) -> None:
    run = run.override("mlflow.experiment=/Shared/ads", "mlflow.run_name=first", "metrics.at=[1]")
    half = train(run.override("train.max_steps=8"), data, out=tmp_path / "run", show_progress=False)
    first = shown(client, "/Shared/ads")
    assert (first.info.run_name, first.info.status) == ("first", "FINISHED")
    assert first.data.params["train.global_batch_size"] == "64"
    assert first.data.params["model.name"] == "dlrm"
    train(run, data, out=half.path, show_progress=False)
    found = evaluate(half.path, "test")
    whole = shown(client, "/Shared/ads")
    assert whole.info.run_id == first.info.run_id
    logged = {point.step: point.value for point in client.get_metric_history(first.info.run_id, "train/loss")}
    assert logged == {record["step"]: record["loss"] for record in records(half.path, "train")}
    assert whole.data.metrics["test/auc"] == found.metrics["auc"]
    assert whole.data.metrics["valid/ne"] == records(half.path, "evaluation")[-1]["ne"]
    files = {file.path for file in client.list_artifacts(first.info.run_id)}
    assert {"config.yaml", "plan.json", "result.json", "report.html"} <= files


def test_a_version_of_a_model_is_the_run_with_its_checkpoint(
    run: RunConfig, data: Dataset, client: Any, tmp_path: Path
) -> None:
    run = run.override("mlflow.experiment=ads", "mlflow.registered_model=main.recommender.tiny")
    result = train(run, data, out=tmp_path / "run", show_progress=False)
    train(run, data, out=tmp_path / "again", show_progress=False)
    versions = client.search_model_versions("name='main.recommender.tiny'")
    assert {int(version.version) for version in versions} == {1, 2}
    train(run, data, out=result.path, show_progress=False)  # There is nothing left to do.
    assert len(client.search_model_versions("name='main.recommender.tiny'")) == 2
    first = next(version for version in versions if int(version.version) == 1)
    model = Path(first.source.removeprefix("file://"))
    described = mlflow.models.Model.load(str(model))
    assert described.signature.inputs.input_names() == [f.column for f in data.manifest.spec.features]
    assert described.flavors["shardrec"]["checkpoint"] == result.result["checkpoint"]
    assert [path.name for path in (model / "run" / "checkpoints").iterdir()] == [result.result["checkpoint"]]
    assert evaluate(model / "run", "test").metrics == evaluate(result, "test").metrics


def test_a_run_that_fails_is_shown_as_failed(
    run: RunConfig, data: Dataset, client: Any, tmp_path: Path
) -> None:
    run = run.override("mlflow.experiment=ads", "train.dense_optimizer.learning_rate=1e30")
    with pytest.raises(Exception, match="finite"):
        train(run, data, out=tmp_path / "run", show_progress=False)
    assert shown(client, "ads").info.status == "FAILED"
    assert mlflow.active_run() is None


def test_a_server_that_fails_in_mid_run_is_told_of_and_ends_nothing(
    run: RunConfig,
    data: Dataset,
    client: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise mlflow.exceptions.MlflowException("503 from the server")

    from jobs.tracking import _Log

    begun = _Log.params

    def gone_from_then_on(log: _Log, run: RunConfig) -> None:
        begun(log, run)
        for name in ("log_batch", "log_artifact", "set_terminated", "create_registered_model"):
            monkeypatch.setattr(mlflow.MlflowClient, name, gone)

    monkeypatch.setattr(_Log, "params", gone_from_then_on)
    run = run.override("mlflow.experiment=ads", "mlflow.registered_model=tiny")
    result = train(run, data, out=tmp_path / "run", show_progress=False)
    assert result.result["checkpoint"] == "step_00000012"
    said = capsys.readouterr().err
    assert "mlflow: metrics wait: 503 from the server" in said
    assert "mlflow: no version of tiny is made; the same train command tries again" in said
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    train(run, data, out=result.path, show_progress=False)
    assert [version.run_id for version in client.search_model_versions("name='tiny'")] == [
        shown(client, "ads").info.run_id
    ]


def test_metrics_that_a_server_did_not_take_come_later(
    run: RunConfig, data: Dataset, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = mlflow.MlflowClient.log_batch, []

    def flaky(self: Any, *words: Any, **named: Any) -> None:
        if "metrics" in named and not refused:
            refused.append(named)
            raise mlflow.exceptions.MlflowException("503 from the server")
        real(self, *words, **named)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", flaky)
    monkeypatch.setattr("jobs.tracking._RETRY_SECONDS", 0.0)
    run = run.override("mlflow.experiment=ads", "train.log_every_steps=1")
    train(run, data, out=tmp_path / "run", show_progress=False)
    history = client.get_metric_history(shown(client, "ads").info.run_id, "train/loss")
    steps = [point.step for point in history]
    assert refused
    assert sorted(steps) == list(range(1, 13))


def test_a_run_that_is_stopped_is_shown_as_killed_and_makes_no_version(
    run: RunConfig, data: Dataset, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Meter.read
    monkeypatch.setattr(Meter, "read", lambda meter, _: read(meter, stop_requested=True))
    run = run.override("mlflow.experiment=ads", "mlflow.registered_model=tiny", "train.log_every_steps=4")
    result = train(run, data, out=tmp_path / "run", show_progress=False)
    assert result.result["stopped"] == "interrupted"
    assert shown(client, "ads").info.status == "KILLED"
    assert client.search_model_versions("name='tiny'") == []


def test_no_mlflow_and_no_server_are_told_of_before_ranks_start(
    run: RunConfig, data: Dataset, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run.override("mlflow.experiment=ads")
    lost = run.override(f"mlflow.tracking_uri=file://{tmp_path}/config/that/is/a/file")
    (tmp_path / "config").write_text("")
    with pytest.raises(EnvironmentFault, match="MLflow does not take the run"):
        train(lost, data, out=tmp_path / "run", show_progress=False)
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(EnvironmentFault, match="MLflow is not installed"):
        train(run, data, out=tmp_path / "run", show_progress=False)


@pytest.mark.parametrize("name", ["main.tiny", "main.a.b.c", "main..tiny", "a b"])
def test_a_name_that_is_none_of_unity_catalog_is_refused(run: RunConfig, name: str) -> None:
    with pytest.raises(ConfigError, match="registered_model"):
        run.override(f"mlflow.registered_model={name}")
