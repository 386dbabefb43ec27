"""`prepare --append` on a real S3 server: the rows of both days, or the old data set as it was."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jobs import Cluster, Dataset, RunConfig, copy_dataset, evaluate, prepare, train
from jobs.cli import main
from tests.end_to_end.test_prepare_to_store import KEY, URL, begin_anew, left_in_staging, rows_of
from tests.support.object_store import BUCKET, ObjectStore, Request
from trainer.errors import ConfigError, StoreError
from trainer.schema import MANIFEST_FILE

pytestmark = pytest.mark.thorough

pytest.importorskip("pyspark")

ALONE = Cluster.local(1, on="process")


@pytest.fixture
def store(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The server begun anew, with the first day prepared there and, as the reference, in a folder."""
    begin_anew(store, tmp_path, monkeypatch)
    for day in (1, 2):
        write_day(day)
    copy_dataset(prepare("day1/rows.csv", RunConfig.load("small.yaml"), tmp_path / "data"), URL)
    return store


def write_day(day: int) -> None:
    Path(f"day{day}").mkdir()
    rows = range(600 * (day - 1), 600 * day)
    lines = [f"{i},{i % 3 == 0:d},{i / 7:.3f},u{i * 7 % (40 * day)},i{i * 11 % 30}" for i in rows]
    Path(f"day{day}/rows.csv").write_text("\n".join(["row,label,x,user,item", *lines]) + "\n")


def objects(store: ObjectStore) -> dict[str, bytes]:
    client = store.client()
    return {k: client.get_object(Bucket=BUCKET, Key=k)["Body"].read() for k in store.files(f"{KEY}/")}


def added_locally(tmp_path: Path) -> Dataset:
    return prepare("day2/rows.csv", RunConfig.load("small.yaml"), tmp_path / "data", append="grow")


def assert_same_data(store: ObjectStore, tmp_path: Path, local: Dataset) -> None:
    remote = Dataset.open(URL)
    assert remote.manifest.spec == local.manifest.spec
    assert len(remote.manifest.appended) == len(local.manifest.appended) == 1
    back = copy_dataset(remote, tmp_path / "back")
    assert rows_of(tmp_path / "back", back) == rows_of(tmp_path / "data", local)
    inner = f"{KEY}/{remote.manifest.files_in}/"
    assert {key for key in store.files(f"{KEY}/") if not key.startswith(inner)} == {f"{KEY}/{MANIFEST_FILE}"}


def test_rows_of_a_day_are_added_and_trained_on(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = {Path(file.path).name for file in Dataset.open(URL).manifest.splits["train"].files}
    store.requests.clear()
    command = ["prepare", "small.yaml", "--input", "day2/rows.csv", "--out", URL, "--append", "grow"]
    assert main(command) == 0
    assert capsys.readouterr().out.endswith(f"data set: {URL}\n")
    sent = {
        r.path.rpartition("/train/")[2] for r in store.requests if r.method == "POST" and "/train/" in r.path
    }
    local = added_locally(tmp_path)
    assert_same_data(store, tmp_path, local)
    new = {Path(file.path).name for file in local.manifest.splits["train"].files}
    assert sent == new - first, "the store copies the files of the first day by itself"
    assert left_in_staging() == []

    run = RunConfig.load("small.yaml")
    expected = evaluate(train(run, local, ALONE, out="local", show_progress=False)).as_json()
    found = evaluate(train(run, URL, ALONE, out="remote", show_progress=False)).as_json()
    assert (found["rows"], found["metrics"]) == (
        expected["rows"],
        pytest.approx(expected["metrics"], rel=1e-5),
    )

    assert main(command) == 2
    assert "the same rows are in the data set already" in capsys.readouterr().err


def test_kill_9_in_the_middle_leaves_the_old_data_set_whole(store: ObjectStore, tmp_path: Path) -> None:
    before = objects(store)
    met, go_on = threading.Event(), threading.Event()

    def hold(request: Request) -> None:
        if "/v-" in request.path and "/train/part-" in request.path and request.uploads:
            met.set()
            go_on.wait(60)

    store.before = hold
    arguments = ["prepare", "small.yaml", "--input", "day2/rows.csv", "--out", URL, "--append", "grow"]
    command = [sys.executable, "-m", "jobs.cli", *arguments, "--master", "local[2]"]
    with Path("said.txt").open("w") as said:
        process = subprocess.Popen(command, stderr=said, start_new_session=True)
    try:
        while not met.wait(0.1):
            assert process.poll() is None, Path("said.txt").read_text()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        go_on.set()
    store.heal()
    assert process.returncode == -signal.SIGKILL
    after = objects(store)
    assert {key: after.get(key) for key in before} == before
    assert [key for key in after if "/v-" in key]
    (left,) = left_in_staging()
    back = copy_dataset(URL, tmp_path / "old")
    assert sum(back.as_json()["rows"].values()) == 600
    assert not list((tmp_path / "old").glob("v-*"))

    (Path("staging") / left.replace(".tmp-", ".tmp-elsewhere-")).mkdir()  # of a run on another host
    prepare("day2/rows.csv", RunConfig.load("small.yaml"), URL, append="grow")
    assert left_in_staging() == [left.replace(".tmp-", ".tmp-elsewhere-")]
    assert_same_data(store, tmp_path, added_locally(tmp_path))


def test_an_upload_that_fails_or_is_late_leaves_what_is_there(store: ObjectStore, tmp_path: Path) -> None:
    run = RunConfig.load("small.yaml")
    with pytest.raises(ConfigError, match="another config"):
        prepare("day2/rows.csv", run.override("data.split.seed=7"), URL, append="grow")
    before = objects(store)
    store.failing, store.status = ("PUT", "POST"), "403 Forbidden"
    name = "vocabulary"

    def refuse(request: Request) -> None:
        if "/v-" in request.path and f"/{name}/" in request.path:
            store.failures[request.path] = 10**6

    store.before = refuse
    with pytest.raises(StoreError, match=rf"refuses access[\s\S]*{URL}/v-\w+/{name}/") as caught:
        prepare("day2/rows.csv", run, URL, append="grow")
    store.heal()
    after = objects(store)
    assert {key: after.get(key) for key in before} == before

    manifest = f"{KEY}/{MANIFEST_FILE}"
    text = before[manifest].replace(b'"seed": ', b'"seed":  ')

    def change(request: Request) -> None:
        if "/v-" in request.path and request.uploads:
            store.before = lambda _: None
            store.client().put_object(Bucket=BUCKET, Key=manifest, Body=text)

    store.before = change
    with pytest.raises(StoreError, match="changed while rows were added"):
        prepare("day2/rows.csv", run, URL, append="grow")
    assert objects(store)[manifest] == text

    verb, *arguments = shlex.split(caught.value.fixes[0].partition(": ")[2])
    assert verb == "shardrec"
    assert main(arguments) == 0
    assert_same_data(store, tmp_path, added_locally(tmp_path))
