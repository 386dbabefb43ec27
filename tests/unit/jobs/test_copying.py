"""Data sets copied between folders and a real S3 server: whole, or not there at all."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import fsspec
import pytest

from jobs import Dataset, RunConfig, copy_dataset
from jobs.copying import COPYING_FILE, check_store_target
from tests.support.object_store import BUCKET, ObjectStore, Request
from tests.support.tiny import tiny_data
from trainer.errors import ConfigError, DamagedError, DataError, StoreError
from trainer.schema import MANIFEST_FILE, Manifest
from trainer.storage import StorePath, list_files, local_copy

KEY = "prepared/ads"
URL = f"s3://{BUCKET}/{KEY}"


@pytest.fixture
def store(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The server, begun anew for each test."""
    store.renew(monkeypatch)
    return store


@pytest.fixture
def other(tmp_path: Path, run: RunConfig) -> Dataset:
    """A data set with fewer files than `data`."""
    return tiny_data(tmp_path / "other", run, rows={"train": 300, "valid": 50, "test": 50})


def contents(folder: object) -> dict[str, bytes]:
    root = Path(str(folder))
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def stored(store: ObjectStore) -> dict[str, bytes]:
    client = store.client()
    return {
        key.removeprefix(f"{KEY}/"): client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        for key in store.files(f"{KEY}/")
    }


def put(store: ObjectStore, **files: str) -> None:
    for name, text in files.items():
        store.client().put_object(Bucket=BUCKET, Key=f"{KEY}/{name.replace('__', '/')}", Body=text.encode())
    store.requests.clear()


def changes(store: ObjectStore) -> list[tuple[str, str]]:
    """Return the requests that write or delete, in order."""
    found = [(r.method, r.path.partition(f"{KEY}/")[2]) for r in store.requests]
    # pyarrow puts an empty object with the folder's name wherever it has deleted something.
    return [(method, name) for method, name in found if method in ("PUT", "POST", "DELETE") and name]


def test_a_copy_has_the_same_files_and_the_way_back_too(
    store: ObjectStore, data: Dataset, tmp_path: Path
) -> None:
    copy = copy_dataset(data, URL + "/")
    assert stored(store) == contents(data.path)
    assert (str(copy.path), copy.manifest) == (URL, data.manifest)
    assert copy.as_json()["rows"] == {"train": 1000, "valid": 200, "test": 200}
    back = copy_dataset(copy, tmp_path / "back")
    assert contents(back.path) == contents(data.path)
    again = copy_dataset(f"s3a://{BUCKET}/{KEY}", f"s3://{BUCKET}/elsewhere")
    assert set(list_files(again.path)) == set(contents(data.path))


def test_the_manifest_is_deleted_before_anything_else_changes_and_written_last(
    store: ObjectStore, data: Dataset, other: Dataset
) -> None:
    copy_dataset(data, URL)
    store.requests.clear()
    copy_dataset(other, URL)
    assert stored(store) == contents(other.path)
    done = changes(store)
    of_data = [n for n, (_, name) in enumerate(done) if name not in ("", MANIFEST_FILE, COPYING_FILE)]
    of_manifest = [n for n, (_, name) in enumerate(done) if name == MANIFEST_FILE]
    deleted = done.index(("DELETE", MANIFEST_FILE))
    assert deleted == of_manifest[0] < of_data[0]
    assert of_data[-1] < of_manifest[1]
    assert done[-1] == ("DELETE", COPYING_FILE)


def test_a_data_set_in_a_folder_is_replaced(data: Dataset, other: Dataset, tmp_path: Path) -> None:
    copy_dataset(other.path, str(data.path))
    assert contents(data.path) == contents(other.path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not a data set, so it is not replaced"):
        copy_dataset(other, tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"notes.txt": b"mine"}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"notes.txt": "mine"}, r"something else than a data set[\s\S]*notes.txt"),
        (
            {"manifest.json": "{}", "v2__manifest.json": "{}"},
            r"other data sets lie below[\s\S]*v2/manifest.json",
        ),
    ],
)
def test_something_else_at_the_url_is_refused_and_stays(
    store: ObjectStore, data: Dataset, files: dict[str, str], said: str
) -> None:
    put(store, **files)
    before = stored(store)
    for call in (lambda: copy_dataset(data, URL), lambda: check_store_target(StorePath(URL))):
        with pytest.raises(DataError, match=said):
            call()
    assert stored(store) == before
    assert changes(store) == []


def test_names_that_only_begin_alike_are_left_alone(store: ObjectStore, data: Dataset) -> None:
    store.client().put_object(Bucket=BUCKET, Key=f"{KEY}2/notes.txt", Body=b"mine")
    copy_dataset(data, URL)
    copy_dataset(data, URL)
    assert stored(store) == contents(data.path)
    assert store.files(f"{KEY}2/") == {f"{KEY}2/notes.txt": 4}


def fail_at(store: ObjectStore, data: Dataset, ending: str) -> None:
    store.failures[ending] = 10**6
    with pytest.raises(StoreError, match=r"cannot be written: \d tr(y|ies) failed") as caught:
        copy_dataset(data, URL)
    store.failures.clear()
    assert ending in caught.value.where
    for secret in (store.key, store.secret):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("ending", ["train/part-00001.parquet", MANIFEST_FILE])
def test_a_copy_that_was_broken_off_is_no_data_set_and_goes_on(
    store: ObjectStore, data: Dataset, other: Dataset, ending: str
) -> None:
    if ending != MANIFEST_FILE:  # over an older data set, too
        copy_dataset(other, URL)
    fail_at(store, data, ending)
    half = stored(store)
    assert MANIFEST_FILE not in half
    with pytest.raises(DataError, match="not a data set"):
        Dataset.open(URL)
    check_store_target(StorePath(URL))
    store.requests.clear()
    copy_dataset(data, URL)
    assert stored(store) == contents(data.path)
    written = {name for method, name in changes(store) if method in ("PUT", "POST")}
    whole = {name for name, content in half.items() if content == contents(data.path).get(name)}
    assert whole
    assert written == (set(contents(data.path)) - whole) | {COPYING_FILE}


def test_another_copy_takes_nothing_from_one_that_was_broken_off(
    store: ObjectStore, data: Dataset, tmp_path: Path
) -> None:
    fail_at(store, data, MANIFEST_FILE)
    # The same sizes throughout, other bytes.
    twin = Path(shutil.copytree(str(data.path), tmp_path / "twin"))
    part = twin / data.manifest.splits["train"].files[0].path
    part.write_bytes(part.read_bytes()[::-1])
    created = data.manifest.created
    data.manifest.model_copy(update={"created": created[:-1] + "9"}).save(twin)
    copy_dataset(twin, URL)
    assert stored(store) == contents(twin)


def test_a_mark_that_was_half_written_counts_for_nothing(store: ObjectStore, data: Dataset) -> None:
    put(store, **{COPYING_FILE: '{"mani', "train__part-00000.parquet": "half"})
    copy_dataset(data, URL)
    assert stored(store) == contents(data.path)


def test_an_unreachable_store_is_named_and_the_copy_goes_on_when_it_is_back(
    store: ObjectStore, data: Dataset
) -> None:
    stopped = threading.Event()

    def stop_at(request: Request) -> None:
        if request.path.endswith("valid/part-00000.parquet") and not stopped.is_set():
            stopped.set()
            store.stop()

    store.before = stop_at
    with pytest.raises(StoreError, match=store.url[7:]):
        copy_dataset(data, URL)
    assert stopped.is_set()
    store.start()
    assert MANIFEST_FILE not in stored(store)
    copy_dataset(data, URL)
    assert stored(store) == contents(data.path)


def test_another_writer_at_the_same_url_is_found_out(store: ObjectStore, data: Dataset) -> None:
    def shorten(now: Request) -> None:
        sent = {request.path for request in store.requests if request.method in ("PUT", "POST")}
        if now.method == "GET" and len(sent) == len(contents(data.path)):  # all but the manifest is checked
            store.before = lambda _: None
            put(store, **{"train__part-00000.parquet": "short"})

    store.before = shorten
    with pytest.raises(StoreError, match=r"not copied whole[\s\S]*train/part-00000.parquet[\s\S]*5 bytes"):
        copy_dataset(data, URL)
    assert MANIFEST_FILE not in stored(store)


def test_a_source_that_is_not_whole_is_refused_and_the_target_stays(
    store: ObjectStore, data: Dataset, other: Dataset
) -> None:
    copy_dataset(other, URL)
    part = Path(str(data.path)) / data.manifest.splits["train"].files[1].path
    for content, got in ((b"short", "5 bytes"), (None, "no file")):
        part.unlink() if content is None else part.write_bytes(content)
        with pytest.raises(DamagedError, match=rf"not whole[\s\S]*part-00001.parquet[\s\S]*{got}"):
            copy_dataset(data, URL)
    with pytest.raises(DataError, match="no readable manifest"):
        copy_dataset(part.parent, URL)
    assert stored(store) == contents(other.path)


@pytest.mark.parametrize(
    ("source", "target"), [(KEY, KEY), (KEY, f"{KEY}/inner"), (KEY, "prepared"), (KEY, "")]
)
def test_a_copy_onto_itself_is_refused(store: ObjectStore, data: Dataset, source: str, target: str) -> None:
    copy_dataset(data, URL)
    with pytest.raises(ConfigError, match="onto itself, or into itself"):
        copy_dataset(f"s3://{BUCKET}/{source}", f"s3a://{BUCKET}/{target}")
    assert stored(store) == contents(data.path)


@pytest.mark.parametrize(("source", "target"), [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("link/b", "a")])
def test_a_copy_between_folders_of_which_one_holds_the_other_is_refused(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(str(data.path), "a")
    shutil.copytree(str(data.path), "a/b")
    Path("link").symlink_to("a")
    before = contents("a")
    with pytest.raises(ConfigError, match="onto itself, or into itself"):
        copy_dataset(source, target)
    assert contents("a") == before


def with_vectors(folder: Path, run: RunConfig) -> Dataset:
    made = tiny_data(folder, run, vector_dims=[6])
    (folder / "vocabulary" / "v0").mkdir(parents=True)
    (folder / "vocabulary" / "v0" / "part-00000.parquet").write_bytes(b"ids")
    return made


def test_vectors_and_vocabularies_are_copied_and_missed(
    store: ObjectStore, run: RunConfig, tmp_path: Path
) -> None:
    made = with_vectors(tmp_path / "made", run)
    copy_dataset(made, URL)
    assert stored(store) == contents(made.path)
    assert {"vectors/v0/part-00002.npy", "vocabulary/v0/part-00000.parquet"} < stored(store).keys()
    for folder in ("vocabulary/v0", "vectors/v0"):
        (tmp_path / "made" / folder).rename(tmp_path / "aside")
        with pytest.raises(DamagedError, match=rf"a folder is missing or empty[\s\S]*made/{folder}"):
            copy_dataset(made, tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
        (tmp_path / "aside").rename(tmp_path / "made" / folder)


def test_rows_whose_vectors_are_in_a_folder_are_not_copied_to_a_store(
    store: ObjectStore, run: RunConfig, tmp_path: Path
) -> None:
    made = with_vectors(tmp_path / "made", run)
    inputs = tmp_path / "inputs"
    shutil.copytree(tmp_path / "made" / "test", inputs / "test")
    splits = {"test": made.manifest.splits["test"]}
    # As `write_inputs` leaves them: no vocabularies, no vectors, no config.
    changes = {"splits": splits, "config_hash": "", "vectors_in": str(tmp_path / "made")}
    made.manifest.model_copy(update=changes).save(inputs)
    with pytest.raises(ConfigError, match=r"lie in a folder of this machine[\s\S]*made"):
        copy_dataset(inputs, URL)
    assert stored(store) == {}
    assert contents(copy_dataset(inputs, tmp_path / "copy").path) == contents(inputs)
    made.manifest.model_copy(update={**changes, "vectors_in": "s3://bucket/made"}).save(inputs)
    copy_dataset(inputs, URL)
    assert stored(store) == contents(inputs)


def test_refused_access_is_told_before_any_work(
    store: ObjectStore, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.use(monkeypatch, AWS_SECRET_ACCESS_KEY="hunter2")
    for call in (lambda: copy_dataset(data, URL), lambda: check_store_target(StorePath(URL))):
        with pytest.raises(StoreError, match=f"refuses access to bucket '{BUCKET}'") as caught:
            call()
        assert "hunter2" not in str(caught.value)
    store.use(monkeypatch)
    with pytest.raises(StoreError, match="there is no bucket 'nowhere'"):
        check_store_target(StorePath("s3://nowhere/ads"))


def test_checking_a_target_leaves_what_is_there(store: ObjectStore, data: Dataset) -> None:
    check_store_target(StorePath(URL))
    assert stored(store) == {}
    copy_dataset(data, URL)
    check_store_target(StorePath(URL))
    assert stored(store) == contents(data.path)
    put(store, **{COPYING_FILE: json.dumps({"manifest": "digest"})})
    check_store_target(StorePath(URL))
    assert json.loads(stored(store)[COPYING_FILE]) == {"manifest": "digest"}


def test_what_fsspec_knows_is_copied_to_as_well(data: Dataset, other: Dataset, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    try:
        copy_dataset(other, "memory://box/ads")
        copy = copy_dataset(data, "memory://box/ads")
        assert Manifest.load("memory://box/ads") == data.manifest
        assert contents(local_copy(copy.path, tmp_path / "back")) == contents(data.path)
    finally:
        memory.rm("/box", recursive=True)


def test_folders_are_made_where_a_store_has_them(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # fsspec's own local file system makes none by itself, as HDFS and SFTP do not.
    monkeypatch.chdir(tmp_path)
    copy_dataset(data, "local://deep/ads")
    assert contents(tmp_path / "deep" / "ads") == contents(data.path)
