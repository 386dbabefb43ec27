"""`prepare --out s3://...` on a real S3 server: the data set of the folder, whole or not there at all."""

from __future__ import annotations

import re
import shlex
import tempfile
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import Cluster, Dataset, RunConfig, evaluate, prepare, train
from jobs.cli import main
from tests.end_to_end.conftest import interrupted
from tests.support.object_store import BUCKET, ObjectStore, Request
from trainer.errors import StoreError, UserError
from trainer.schema import MANIFEST_FILE
from trainer.storage import local_copy

pytestmark = pytest.mark.thorough

pytest.importorskip("pyspark")

CONFIG = """
name: small
data:
  source: {path: rows.csv, header: true}
  label: {column: label}
  keep: [row]
  num_lanes: 4
  rows_per_file: 100
features:
  dense: [{columns: x, ops: [{fill: 0}]}]
  sparse: [{columns: [user, item], ops: vocabulary}]
model: {name: dlrm, embedding_dim: 4}
train: {global_batch_size: 16, max_steps: 1, log_every_steps: 1}
"""
KEY = "prepared/small"
URL = f"s3://{BUCKET}/{KEY}"


@pytest.fixture
def store(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The server begun anew, with raw rows in the working folder."""
    begin_anew(store, tmp_path, monkeypatch)
    write_rows(600)
    return store


def begin_anew(store: ObjectStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty the server; the working folder has the config, and staging its own place."""
    store.renew(monkeypatch)
    monkeypatch.chdir(folder)
    (folder / "staging").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "staging"))
    monkeypatch.setenv("TMPDIR", str(folder / "staging"))
    Path("small.yaml").write_text(CONFIG)


def write_rows(rows: int) -> None:
    lines = [f"{i},{i % 3 == 0:d},{i / 7:.3f},u{i * 7 % 40},i{i * 11 % 30}" for i in range(rows)]
    Path("rows.csv").write_text("\n".join(["row,label,x,user,item", *lines]) + "\n")


def left_in_staging() -> list[str]:
    return [path.name for path in Path("staging").iterdir() if path.name.startswith("shardrec-")]


def rows_of(folder: Path, dataset: Dataset) -> dict[str, list[dict[str, object]]]:
    return {
        name: [row for file in split.files for row in pq.read_table(folder / file.path).to_pylist()]
        for name, split in dataset.manifest.splits.items()
    }


def test_training_and_evaluation_from_the_store_equal_those_of_the_folder(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunConfig.load("small.yaml")
    local = prepare(None, run, tmp_path / "data")
    assert main(["prepare", "small.yaml", "--out", URL]) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"data set: {URL}\n")
    assert left_in_staging() == []
    remote = Dataset.open(URL)
    assert remote.manifest.spec.hash == local.manifest.spec.hash
    names = {path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").rglob("*.*")}
    assert {key.removeprefix(f"{KEY}/") for key in store.files(f"{KEY}/")} == names
    assert rows_of(local_copy(remote.path, tmp_path / "back"), remote) == rows_of(tmp_path / "data", local)

    alone = Cluster.local(1, on="process")
    expected = evaluate(train(run, local, alone, out="local", show_progress=False)).as_json()
    for ranks, cluster in ((1, alone), (2, Cluster.local(2))):
        found = evaluate(train(run, remote, cluster, out=f"remote{ranks}", show_progress=False)).as_json()
        assert found["rows"] == expected["rows"] == local.as_json()["rows"]["test"]
        assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-5)


def test_a_data_set_on_the_store_is_replaced_whole(store: ObjectStore) -> None:
    run = RunConfig.load("small.yaml")
    assert sum(prepare(None, run, URL).as_json()["rows"].values()) == 600
    write_rows(200)
    Path("shared").mkdir()
    second = prepare(None, run, URL, staging="shared")
    assert (str(second.path), second.manifest) == (URL, Dataset.open(URL).manifest)
    assert sum(second.as_json()["rows"].values()) == 200
    inner = f"{KEY}/{second.manifest.files_in}"
    named = {f"{inner}/{f.path}" for split in second.manifest.splits.values() for f in split.files}
    assert {key for key in store.files(f"{KEY}/") if "/part-" in key and "/vocabulary/" not in key} == named
    assert list(Path("shared").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", URL], r"something else than a data set[\s\S]*notes.txt"),
        (["--out", f"{URL}2", "--append", "grow"], r"not a data set[\s\S]*small2/manifest.json"),
        (["--out", f"{URL}2", "--master", "spark://127.0.0.1:9"], r"all executors reach[\s\S]*--staging"),
        (
            ["--out", f"{URL}2", "--staging", "s3://b/x"],
            r"a folder that this machine can open[\s\S]*--staging",
        ),
        (["--out", "here", "--staging", "there"], r"nothing to stage"),
    ],
)
def test_what_cannot_be_done_is_said_before_spark_starts(
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    store.client().put_object(Bucket=BUCKET, Key=f"{KEY}/notes.txt", Body=b"mine")
    monkeypatch.setattr("jobs.session.spark_session", lambda *_, **__: pytest.fail("Spark was started"))
    assert main(["prepare", "small.yaml", *arguments]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert store.files() == {f"{KEY}/notes.txt": 4}


def test_on_a_cluster_staging_must_be_named(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        conf = {"spark.master": "yarn"}  # noqa: RUF012

    with pytest.raises(UserError, match=r"all executors reach[\s\S]*yarn"):
        prepare(None, RunConfig.load("small.yaml"), URL, spark=Session())  # type: ignore[arg-type]
    assert store.files() == {}


def test_an_upload_that_fails_keeps_the_data_set_and_says_how_to_finish(
    store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = threading.Event()

    def stop_at(request: Request) -> None:
        if request.path.endswith("train/part-00001.parquet") and not stopped.is_set():
            stopped.set()
            store.stop()

    store.before = stop_at
    with pytest.raises(StoreError) as caught:
        prepare(None, RunConfig.load("small.yaml"), URL)
    store.start()
    assert f"{KEY}/{MANIFEST_FILE}" not in store.files()
    for secret in (store.key, store.secret):
        assert secret not in str(caught.value)
    command = caught.value.fixes[0].partition(": ")[2]
    verb, *arguments = shlex.split(command)
    assert verb == "shardrec"
    assert len(left_in_staging()) == 1
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"data set: {URL}\n"
    assert sum(Dataset.open(URL).as_json()["rows"].values()) == 600


def test_ctrl_c_while_files_are_copied_leaves_no_data_set_but_the_staged_one(
    store: ObjectStore, tmp_path: Path
) -> None:
    pressed = threading.Event()

    def slow(request: Request) -> None:
        if "/train/part-" in request.path:
            pressed.wait(60)

    store.before = slow
    try:
        code, said = interrupted(
            "prepare",
            "small.yaml",
            *("--out", URL, "--master", "local[2]"),
            cwd=tmp_path,
            when=lambda: (
                any("/train/part-" in request.path for request in store.requests) and release(pressed)
            ),
        )
    finally:
        pressed.set()
    assert code == 130, said
    assert "Traceback" not in said
    assert f"{KEY}/{MANIFEST_FILE}" not in store.files()
    assert re.search(rf"shardrec: stopped at once\n +1\) .* shardrec copy \S+/data {URL}\n$", said)
    assert main(shlex.split(said.strip().rpartition(": shardrec ")[2])) == 0
    assert sum(Dataset.open(URL).as_json()["rows"].values()) == 600


def release(pressed: threading.Event) -> bool:
    """Let the requests go on in a moment, when the other process was interrupted."""
    threading.Timer(1.0, pressed.set).start()
    return True
