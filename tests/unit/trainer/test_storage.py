"""Places: what a text names, and reading them from a real S3 server, fsspec's stores and this machine."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from tests.support.object_store import BUCKET, ObjectStore
from trainer.errors import ConfigError, DataError, StoreError
from trainer.schema import Manifest
from trainer.storage import (
    StorePath,
    as_local,
    as_place,
    attempt,
    exists,
    list_files,
    local_copy,
    open_input,
    read_text,
)

FILES = {"a/text.txt": "häuser", "a/b/deep.txt": "deep", "top.txt": "top"}


def write_files(folder: Path) -> Path:
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def uploaded(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> StorePath:
    return StorePath(store.upload(write_files(tmp_path_factory.mktemp("files")), "some/files"))


@pytest.fixture(autouse=True)
def _environment(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.use(monkeypatch)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("prepared/x", Path("prepared/x")),
        ("/data/x", Path("/data/x")),
        (Path("/data/x"), Path("/data/x")),
        ("file:///data/x", Path("/data/x")),
        ("file:/data/x", Path("/data/x")),
        ("dbfs:/Volumes/ml/ads/v3", Path("/Volumes/ml/ads/v3")),
        ("dbfs:/ads/v3", Path("/dbfs/ads/v3")),
        ("s3://bucket/prepared/x/", StorePath("s3://bucket/prepared/x")),
        ("s3a://bucket/x", StorePath("s3a://bucket/x")),
        ("abfs://box@account.dfs.core.windows.net/x", StorePath("abfs://box@account.dfs.core.windows.net/x")),
        ("a:b/c", Path("a:b/c")),
    ],
)
def test_text_names_a_place(text: str | Path, place: Path | StorePath) -> None:
    assert as_place(text) == place


def test_places_join_and_show_as_urls() -> None:
    place = as_place("S3://bucket/x") / "train" / "part.parquet"
    assert str(place) == "S3://bucket/x/train/part.parquet"
    assert isinstance(place, StorePath)
    assert (place.scheme, place.bucket, place.absolute()) == ("s3", "bucket", place)


@pytest.mark.parametrize("text", ["s3:///x", "s3:/bucket/x", Path("s3://bucket/x")])
def test_url_of_another_form_is_refused(text: str | Path) -> None:
    with pytest.raises(ConfigError, match="s3://BUCKET/PATH"):
        as_place(text)


def test_credentials_in_a_url_are_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID") as caught:
        as_place("s3://AKIAKEY:hunter2@bucket/x")
    assert "hunter2" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


def test_what_must_be_local_is_refused_on_a_store() -> None:
    assert as_local("file:///runs/x", "a run folder") == Path("/runs/x")
    with pytest.raises(ConfigError, match=r"a run folder must[\s\S]*s3://bucket/runs/x"):
        as_local("s3://bucket/runs/x", "a run folder")


@pytest.mark.parametrize("scheme", ["s3", "s3a", "local", "memory"])
def test_files_are_read_listed_and_copied(scheme: str, uploaded: StorePath, tmp_path: Path) -> None:
    place = as_place(uploaded.url.replace("s3://", f"{scheme}://"))
    if scheme == "local":
        place = write_files(tmp_path / "here")
    if scheme == "memory":
        place = as_place("memory://some/files")
        fsspec.filesystem("memory").put(str(write_files(tmp_path / "put")), "some/files", recursive=True)
    assert read_text(place / "a" / "text.txt") == "häuser"
    assert list_files(place) == {name: len(text.encode()) for name, text in FILES.items()}
    assert [exists(place / name) for name in ("top.txt", "a", "none")] == [True, True, False]
    assert list_files(place / "none") == {}
    with open_input(place / "top.txt") as file:
        assert (file.size(), file.read_at(2, 1)) == (3, b"op")
    copied = local_copy(place / "a", tmp_path / "copies")
    assert {path.name: path.read_text(encoding="utf-8") for path in copied.rglob("*.txt")} == {
        "text.txt": "häuser",
        "deep.txt": "deep",
    }
    flat = local_copy(place / "a" / "b", tmp_path / "copies")
    assert [path.name for path in flat.iterdir()] == ["deep.txt"]
    with pytest.raises(FileNotFoundError):
        read_text(place / "none.txt")


def test_server_errors_that_pass_are_borne(store: ObjectStore, uploaded: StorePath) -> None:
    store.failures["top.txt"] = 4  # more than the SDK's own three tries
    assert read_text(uploaded / "top.txt") == "top"
    assert store.failures["top.txt"] == 0


def test_server_errors_that_stay_are_one_clear_error(store: ObjectStore, uploaded: StorePath) -> None:
    place = uploaded / "top.txt"
    store.failures["top.txt"] = 1000

    def read() -> bytes:
        with open_input(place) as file:
            return bytes(file.read())

    with pytest.raises(StoreError) as caught:
        attempt(place, read, 2, detail="footer")
    store.failures.clear()
    for words in (
        "2 tries failed",
        f"s3://{BUCKET}/some/files/top.txt, footer",
        "HTTP status 500",
        store.url[7:],
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [{"AWS_ACCESS_KEY_ID": "AKIANOBODY"}, {"AWS_SECRET_ACCESS_KEY": "hunter2"}],
    ids=["key", "secret"],
)
def test_wrong_credentials_name_the_bucket_and_no_secret(
    store: ObjectStore, uploaded: StorePath, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]
) -> None:
    store.use(monkeypatch, **wrong)
    before = len(store.requests)
    for call in (lambda: read_text(uploaded / "top.txt"), lambda: Manifest.load(uploaded.url)):
        with pytest.raises(
            StoreError, match=rf"refuses access to bucket '{BUCKET}'[\s\S]*AWS_SECRET_ACCESS_KEY"
        ) as e:
            call()
        for secret in (*wrong.values(), store.secret, store.key):
            assert secret not in str(e.value)
    assert len(store.requests) == before + 2  # no second try


def test_folder_without_manifest_on_a_store_is_no_data_set(uploaded: StorePath) -> None:
    with pytest.raises(DataError, match=r"not a data set[\s\S]*s3://ads-bucket/some/files/manifest.json"):
        Manifest.load(uploaded.url)


def test_unreachable_store_names_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    place = StorePath("s3://bucket/x")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9"):
        attempt(place, lambda: open_input(place), 1)


def test_unknown_store_and_missing_package_are_named() -> None:
    with pytest.raises(ConfigError, match="no store is known by nonsense://"):
        exists(as_place("nonsense://bucket/x"))
    with pytest.raises(ConfigError, match=r"oci://[\s\S]*ocifs"):
        exists(as_place("oci://bucket@namespace/x"))


def test_fsspec_errors_that_are_no_os_errors_are_retried_and_named() -> None:
    tries = []

    def fail() -> None:
        tries.append(1)
        raise RuntimeError("session is closed")

    with pytest.raises(StoreError, match=r"2 tries failed[\s\S]*abfs://box/x[\s\S]*session is closed"):
        attempt(StorePath("abfs://box/x"), fail, 2)
    assert len(tries) == 2
