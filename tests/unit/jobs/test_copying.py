"""Data sets copied between folders and a real S3 server: whole, or not there at all."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

import fsspec
import pytest

from jobs import Dataset, RunConfig, copy_dataset
from jobs.store_target import COPYING_FILE, check_store_target
from tests.support.object_store import BUCKET, ObjectStore, Request
from tests.support.tiny import tiny_data
from trainer.errors import ConfigError, DamagedError, DataError, StoreError
from trainer.schema import MANIFEST_FILE, Manifest
from trainer.storage import StorePath, list_files

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


def data_set(store: ObjectStore) -> dict[str, bytes]:
    """Return the files of the data set at the URL, which must be all there is, as they lie in a folder."""
    files = stored(store)
    values = json.loads(files.pop(MANIFEST_FILE))
    start = f"{values['files_in']}/" if values["files_in"] else ""
    assert [name for name in files if not name.startswith(start)] == []
    text = json.dumps(values | {"files_in": None}, indent=1, ensure_ascii=False)
    return {name.removeprefix(start): file for name, file in files.items()} | {MANIFEST_FILE: text.encode()}


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


def test_the_old_data_set_is_whole_until_the_new_manifest_is_there(
    store: ObjectStore, data: Dataset, other: Dataset
) -> None:
    for one, two in ((data, other), (other, data)):  # at the URL itself, then in a folder inside
        copy_dataset(one, URL)
        before = stored(store)
        store.requests.clear()
        copy = copy_dataset(two, URL)
        assert data_set(store) == contents(two.path)
        assert copy.manifest == Manifest.load(URL)
        done = changes(store)
        manifests = [n for n, (_, name) in enumerate(done) if name == MANIFEST_FILE]
        old = [n for n, (_, name) in enumerate(done) if name in before or name in top_folders(before)]
        new = [n for n, (_, name) in enumerate(done) if name.partition("/")[0] == copy.manifest.files_in]
        assert max(new) < min(manifests) <= min(old)
        assert ("DELETE", MANIFEST_FILE) not in done
        assert done[-1] == ("DELETE", COPYING_FILE)


def top_folders(names: Iterable[str]) -> set[str]:
    return {name.partition("/")[0] for name in names if "/" in name}


def test_a_data_set_that_took_a_place_is_copied_to_folders_and_urls_as_it_was(
    store: ObjectStore, data: Dataset, other: Dataset, tmp_path: Path
) -> None:
    copy_dataset(other, URL)
    copy_dataset(data, URL)
    assert Manifest.load(URL).files_in is not None
    assert contents(copy_dataset(URL, tmp_path / "back").path) == contents(data.path)
    store.requests.clear()
    copy_dataset(URL, f"{URL}_2")
    part = data.manifest.splits["train"].files[0].path
    assert store.fetched(part) == [], "a store copies within itself"
    assert contents(copy_dataset(f"{URL}_2", tmp_path / "again").path) == contents(data.path)


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
    assert data_set(store) == contents(data.path)
    assert store.files(f"{KEY}2/") == {f"{KEY}2/notes.txt": 4}


def fail_at(
    store: ObjectStore,
    data: Dataset,
    ending: str,
    status: str = "500 Internal Server Error",
    said: str = r"cannot be written: \d tr(y|ies) failed",
) -> None:
    store.failures[ending], store.failing, store.status = 10**6, ("PUT", "POST"), status
    with pytest.raises(StoreError, match=said) as caught:
        copy_dataset(data, URL)
    store.heal()
    assert ending in caught.value.where
    for secret in (store.key, store.secret):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("ending", ["train/part-00001.parquet", MANIFEST_FILE])
def test_a_first_copy_that_was_broken_off_is_no_data_set_and_goes_on(
    store: ObjectStore, data: Dataset, ending: str
) -> None:
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


@pytest.mark.parametrize("ending", ["train/part-00001.parquet", MANIFEST_FILE])
@pytest.mark.parametrize("again", [False, True])
def test_a_copy_over_a_data_set_that_was_broken_off_leaves_it_whole_and_goes_on(
    store: ObjectStore, data: Dataset, other: Dataset, tmp_path: Path, ending: str, again: bool
) -> None:
    copy_dataset(other, URL)
    if again:
        copy_dataset(other, URL)  # in a folder inside now
    old = stored(store)
    fail_at(store, data, ending)
    half = stored(store)
    assert {name: half.get(name) for name in old} == old
    assert contents(copy_dataset(URL, tmp_path / "old").path) == contents(other.path)
    check_store_target(StorePath(URL))
    store.requests.clear()
    copy_dataset(data, URL)
    assert data_set(store) == contents(data.path)
    folder = f"{Manifest.load(URL).files_in}/"
    begun = {name for name in half if name.startswith(folder)}
    assert begun
    assert begun.isdisjoint(name for method, name in changes(store) if method == "PUT")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("403 Forbidden", f"refuses access to bucket '{BUCKET}'"),
        ("503 Slow Down", "5 tries failed"),
        ("", "5 tries failed"),
    ],
)
def test_refused_throttled_and_cut_uploads_name_the_file_and_leave_the_old_data_set(
    store: ObjectStore, data: Dataset, other: Dataset, status: str, said: str
) -> None:
    copy_dataset(other, URL)
    old = stored(store)
    part = "train/part-00001.parquet"
    fail_at(store, data, part, status, rf"{said}[\s\S]*{part}")
    assert {name: stored(store).get(name) for name in old} == old
    copy_dataset(data, URL)
    assert data_set(store) == contents(data.path)


def test_another_copy_over_what_was_broken_off_leaves_no_file_of_it(
    store: ObjectStore, data: Dataset, other: Dataset, tmp_path: Path
) -> None:
    copy_dataset(other, URL)
    fail_at(store, data, MANIFEST_FILE)
    third = Path(shutil.copytree(str(data.path), tmp_path / "third"))
    data.manifest.model_copy(update={"created": data.manifest.created[:-1] + "9"}).save(third)
    copy_dataset(third, URL)
    assert data_set(store) == contents(third)


def test_old_files_that_could_not_be_deleted_are_no_failure_and_go_with_the_next_copy(
    store: ObjectStore, data: Dataset, other: Dataset
) -> None:
    copy_dataset(other, URL)

    def refuse(now: Request) -> None:
        written = any(r.method == "PUT" and r.path.endswith(MANIFEST_FILE) for r in store.requests)
        if written and now.method in ("DELETE", "POST") and not now.path.endswith(MANIFEST_FILE):
            store.failures[now.path] = 10**6

    store.requests.clear()
    store.before, store.status = refuse, "403 Forbidden"
    copy_dataset(data, URL)
    store.heal()
    left = stored(store)
    assert Manifest.load(URL).splits == data.manifest.splits
    assert [name for name in left if name.startswith("train/")]
    copy_dataset(other, URL)
    assert data_set(store) == contents(other.path)


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
        assert Manifest.load("memory://box/ads") == copy.manifest
        assert contents(copy_dataset(copy, tmp_path / "back").path) == contents(data.path)
    finally:
        memory.rm("/box", recursive=True)


def test_folders_are_made_where_a_store_has_them(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # fsspec's own local file system makes none by itself, as HDFS and SFTP do not.
    monkeypatch.chdir(tmp_path)
    copy_dataset(data, "local://deep/ads")
    assert contents(tmp_path / "deep" / "ads") == contents(data.path)
