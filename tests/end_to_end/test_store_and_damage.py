"""Training and evaluating on an object store, and on damaged part files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jobs import Cluster, Dataset, RunConfig, evaluate, plan, train
from jobs.cli import main
from tests.end_to_end.conftest import shardrec
from tests.support.damage import flip_bytes
from tests.support.object_store import ObjectStore
from tests.support.run_folders import losses
from tests.support.tiny import CONFIG, tiny_data
from trainer.errors import ConfigError, DataError, StoreError

pytestmark = pytest.mark.thorough

SHORT = ("train.max_steps=3", "train.log_every_steps=1")
ALONE = Cluster.local(1, on="process")


@pytest.fixture(scope="module")
def short_run() -> RunConfig:
    run = RunConfig.from_dict(CONFIG, where="tiny")
    for change in SHORT:
        run = run.override(change)
    return run


@pytest.fixture(scope="module")
def local(short_run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny_data(tmp_path_factory.mktemp("tiny"), short_run)


@pytest.fixture(scope="module")
def url(store: ObjectStore, local: Dataset) -> str:
    return store.upload(Path(str(local.path)), "prepared/tiny")


def test_a_data_set_on_a_store_trains_and_evaluates_as_the_local_one(
    store: ObjectStore,
    short_run: RunConfig,
    local: Dataset,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store.use(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(short_run.to_yaml())

    assert plan(short_run, url).tables == plan(short_run, local).tables
    assert main(["plan", "tiny.yaml", "--data", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"] == "tiny_plan.json"
    assert (tmp_path / "tiny_plan.json").exists()

    result = train(short_run, local, ALONE, out="local", show_progress=False)
    assert main(["train", "tiny.yaml", "--data", url, "--out", "remote", "--on", "process", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows_skipped"] == 0
    assert losses(tmp_path / "remote") == losses(tmp_path / "local")
    assert str(url) == json.loads((tmp_path / "remote" / "env.json").read_text())["dataset"]

    found, expected = evaluate("remote", by="row"), evaluate(result, by="row")
    assert found.as_json() == expected.as_json()
    assert (found.rows, found.rows_skipped) == (200, 0)
    assert len(found.by["row"]) == 100

    # It goes on from the store that the run was started on.
    longer = short_run.override("train.max_steps=4")
    assert train(longer, url, ALONE, out="remote", show_progress=False).result["steps"] == 4


def test_a_store_that_refuses_access_is_one_user_error(
    store: ObjectStore, short_run: RunConfig, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.use(monkeypatch, AWS_SECRET_ACCESS_KEY="hunter2")
    with pytest.raises(StoreError, match="refuses access to bucket 'ads-bucket'") as caught:
        train(short_run, url, ALONE, out=tmp_path / "run", show_progress=False)
    assert "hunter2" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_run_folders_on_a_store_are_refused(short_run: RunConfig, local: Dataset) -> None:
    with pytest.raises(ConfigError, match="a run folder must lie on a file system"):
        train(short_run, local, ALONE, out="s3://ads-bucket/runs/tiny", show_progress=False)
    with pytest.raises(ConfigError, match="a run folder must lie on a file system"):
        evaluate("s3://ads-bucket/runs/tiny")


@pytest.fixture(scope="module")
def damaged(local: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """One row group of 64 rows in every split is damaged."""
    folder = Path(shutil.copytree(str(local.path), tmp_path_factory.mktemp("damaged") / "copy"))
    flip_bytes(folder / local.manifest.splits["train"].files[1].path, 2, "s0")
    flip_bytes(folder / local.manifest.splits["test"].files[0].path, 0, "d0")
    flip_bytes(folder / local.manifest.splits["valid"].files[0].path, 1, "m0")
    return Dataset.open(folder)


def test_damage_fails_a_run_by_default_and_names_the_place(
    short_run: RunConfig, damaged: Dataset, tmp_path: Path
) -> None:
    epoch = short_run.override("train.max_steps=15")
    with pytest.raises(DataError, match=r"cannot be decoded[\s\S]*train/part-00001.parquet, row group 2"):
        train(epoch, damaged, ALONE, out=tmp_path / "run", show_progress=False)


@pytest.mark.filterwarnings("ignore:skipping .* rows:UserWarning")
def test_skipped_rows_are_counted_in_training_and_evaluation(
    short_run: RunConfig, damaged: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = short_run.override("data.on_corrupt=skip").override("train.tail=pad").override("train.max_steps=32")
    folder = tmp_path / "run"
    # 16 steps are an epoch of 1,000 rows, padded: every row is met twice. The run is broken off in between.
    first = train(run.override("train.max_steps=16"), damaged, ALONE, out=folder, show_progress=False)
    assert first.result["rows_skipped"] == 64
    (tmp_path / "tiny.yaml").write_text(run.to_yaml())
    # In a process of its own: pytest keeps this one's warnings out of the log.
    command = ("train", "tiny.yaml", "--data", damaged.path, "--out", folder, "--resume", "--json")
    second = shardrec(*command, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "train: 128 rows lay in damaged row groups" in second.stderr
    value = json.loads(second.stdout)
    assert (value["rows_skipped"], value["metrics"]["rows_skipped"]) == (128, 64)
    log = (folder / "log" / "rank_00000.txt").read_text()
    assert "skipping 64 rows" in log
    assert "train/part-00001.parquet, row group 2" in log
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r for r in records if r["kind"] == "train"][-1]["rows_skipped"] == 128

    found = evaluate(folder, by="row")
    assert (found.rows, found.rows_skipped) == (136, 64)
    assert {group["value"] for group in found.by["row"]} <= set(range(64, 200))
    assert main(["evaluate", str(folder)]) == 0
    assert "test: 136 rows (64 in damaged row groups skipped)" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:skipping .* rows:UserWarning")
def test_a_run_that_fails_at_damage_can_be_evaluated_without_it(
    short_run: RunConfig, local: Dataset, damaged: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    train(short_run, local, ALONE, out=folder, show_progress=False)
    with pytest.raises(DataError, match="cannot be decoded"):
        evaluate(folder, data=damaged)
    found = evaluate(folder, by="row", data=damaged, on_corrupt="skip")
    assert (found.rows, found.rows_skipped) == (136, 64)
    assert main(["evaluate", str(folder), "--data", str(damaged.path), "--on-corrupt", "skip"]) == 0
    assert "test: 136 rows (64 in damaged row groups skipped)" in capsys.readouterr().out
    # The other way round: a run that skips, asked to tell of damage.
    (folder / "config.yaml").write_text(short_run.override("data.on_corrupt=skip").to_yaml())
    with pytest.raises(DataError, match="cannot be decoded"):
        evaluate(folder, data=damaged, on_corrupt="fail")


@pytest.mark.filterwarnings("ignore:skipping .* rows:UserWarning")
def test_a_split_with_nothing_left_is_an_error(short_run: RunConfig, local: Dataset, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(str(local.path), tmp_path / "copy"))
    run = short_run.override("data.on_corrupt=skip")
    result = train(run, Dataset.open(folder), ALONE, out=tmp_path / "run", show_progress=False)
    shutil.rmtree(folder / "test")
    with pytest.raises(DataError, match="every row of the split lies in damaged row groups"):
        evaluate(result)
    shutil.rmtree(folder / "train")
    with pytest.raises(DataError, match="every row since step 0 lies in damaged row groups"):
        train(run, folder, ALONE, out=tmp_path / "other", show_progress=False)
