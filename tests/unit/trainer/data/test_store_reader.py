"""The arrow reader on a real S3 server: the same batches, few bytes, and clear errors."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.support.damage import flip_bytes, truncate
from tests.support.datasets import WrittenDataset, write_dataset, write_split
from tests.support.object_store import BUCKET, ObjectStore, Request
from tests.unit.trainer.data.reading import open_tiny
from trainer.batch import Batch
from trainer.data import BatchReader, ReadPolicy, prefetched
from trainer.data.columns import Columns
from trainer.data.fetching import RowGroupFetcher
from trainer.data.kept import KeptColumns
from trainer.data.part_files import PartFiles
from trainer.errors import ConfigError, DamagedError, DataError, StoreError
from trainer.schema import Manifest
from trainer.storage import as_place


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> WrittenDataset:
    return write_dataset(tmp_path_factory.mktemp("whole"), rows=1003, weight=True)


@pytest.fixture(scope="module")
def url(store: ObjectStore, whole: WrittenDataset) -> str:
    return store.upload(whole.folder, "prepared/whole")


@pytest.fixture(autouse=True)
def _environment(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.use(monkeypatch)
    store.heal()
    store.requests.clear()


def open_url(url: str, rank: int = 0, world_size: int = 1, **options: object) -> BatchReader:
    place = as_place(url)
    found = WrittenDataset(place, Manifest.load(url), {})  # type: ignore[arg-type]
    return open_tiny(found, rank, world_size, **options)


def assert_equal(batches: Iterator[Batch], others: Iterator[Batch]) -> None:
    for batch, other in zip(batches, others, strict=True):
        for name in ("dense_BF", "labels_BT", "weights_B", "rows_B"):
            assert torch.equal(getattr(batch, name), getattr(other, name))
        assert torch.equal(batch.sparse.values(), other.sparse.values())
        assert torch.equal(batch.sparse.lengths(), other.sparse.lengths())


@pytest.mark.parametrize(("ahead", "world_size"), [(0, 1), (1, 2), (8, 1)])
def test_batches_equal_local_ones(whole: WrittenDataset, url: str, ahead: int, world_size: int) -> None:
    policy = ReadPolicy(remote_prefetch_row_groups=ahead)
    for rank in range(world_size):
        local, remote = open_tiny(whole, rank, world_size), open_url(url, rank, world_size, policy=policy)
        assert_equal(remote.batches(1, first_step=4), local.batches(1, first_step=4))


def test_vectors_are_fetched_once_for_all_ranks_of_a_host(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_dataset(tmp_path / "data", rows=640, vector_dims=[6])
    place = store.upload(made.folder, "prepared/vectors")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store.failures["part-00001.npy"] = 1
    with ThreadPoolExecutor(4) as ranks:  # a lock of a file keeps threads apart as it does processes
        remote = list(ranks.map(lambda rank: open_url(place, rank, 4), range(4)))
    for rank, reader in enumerate(remote):
        assert_equal(reader.batches(0), open_tiny(made, rank, 4).batches(0))
    open_url(place)
    assert [len(store.fetched(f"part-0000{part}.npy")) for part in (0, 2)] == [1, 1]
    (cache,) = tmp_path.glob("shardrec-vectors-*")
    assert (cache.stat().st_mode & 0o777) == 0o700
    (copy,) = (path for path in cache.iterdir() if path.is_dir())
    assert sorted(p.name for p in copy.iterdir()) == [f"part-0000{part}.npy" for part in range(3)]


def test_files_may_lie_in_a_folder_that_the_manifest_names(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_dataset(tmp_path / "data", rows=640, vector_dims=[6])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store.upload(made.folder, "prepared/moved/v-0123456789ab")
    url = f"s3://{BUCKET}/prepared/moved"
    manifest = made.manifest.model_copy(update={"files_in": "v-0123456789ab"})
    moved = WrittenDataset(as_place(url), manifest, {})  # type: ignore[arg-type]
    assert_equal(open_tiny(moved).batches(0), open_tiny(made).batches(0))
    kept = KeptColumns(as_place(url), manifest, "train", ReadPolicy())
    assert all_values(kept, "row") == list(range(640))


def all_values(kept: KeptColumns, column: str) -> list[Any]:
    """Return a column in row order, and check that row groups begin where they should."""
    starts = kept.starts
    parts = [part.to_pylist() for part in kept.read(column, range(len(starts) - 1))]
    assert [len(part) for part in parts] == np.diff(starts).tolist()
    return [value for part in parts for value in part]


def test_files_of_vectors_that_were_fetched_whole_are_not_fetched_again(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_dataset(tmp_path / "data", rows=640, vector_dims=[6])
    place = store.upload(made.folder, "prepared/interrupted")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("trainer.storage._FIRST_WAIT_SECONDS", 0.01)
    store.failures["part-00001.npy"] = 10**6
    with pytest.raises(StoreError):
        open_url(place)
    store.failures.clear()
    before = [len(store.fetched(f"interrupted/vectors/v0/part-0000{part}.npy")) for part in range(3)]
    assert before[0] == before[2] == 1
    assert_equal(open_url(place).batches(0), open_tiny(made).batches(0))
    after = [len(store.fetched(f"interrupted/vectors/v0/part-0000{part}.npy")) for part in range(3)]
    assert after == [1, before[1] + 1, 1]
    (cache,) = tmp_path.glob("shardrec-vectors-*")
    (copy,) = (path for path in cache.iterdir() if path.is_dir())
    assert sorted(p.name for p in copy.iterdir()) == [f"part-0000{part}.npy" for part in range(3)]


def test_vectors_missing_on_a_store_are_named(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_dataset(tmp_path / "data", rows=640, vector_dims=[6])
    shutil.rmtree(tmp_path / "data" / "vectors")
    place = store.upload(made.folder, "prepared/without")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(DataError, match="vectors of the data set are missing") as error:
        open_url(place)
    assert f"{place}/vectors/v0" in str(error.value)
    (cache,) = tmp_path.glob("shardrec-vectors-*")
    assert not any(path.is_dir() for path in cache.iterdir())


def test_batches_equal_local_ones_through_fsspec(whole: WrittenDataset) -> None:
    import fsspec

    fsspec.filesystem("memory").put(str(whole.folder), "prepared/whole", recursive=True)
    assert_equal(open_url("memory://prepared/whole").batches(0), open_tiny(whole).batches(0))


def test_another_data_set_of_as_many_rows_at_the_same_url_is_found_out(
    store: ObjectStore, whole: WrittenDataset, tmp_path: Path
) -> None:
    reader = open_url(store.upload(whole.folder, "prepared/replaced"))
    other = write_dataset(tmp_path, rows=1003, weight=True, seed=1)
    files = [manifest.splits["train"].files for manifest in (whole.manifest, other.manifest)]
    assert [file.row_groups for file in files[0]] == [file.row_groups for file in files[1]]
    store.upload(tmp_path, "prepared/replaced")
    with pytest.raises(DataError, match=r"differs from the manifest[\s\S]*bytes"):
        next(reader.batches(0))


def test_reader_left_early_leaves_no_thread(url: str) -> None:
    batches = open_url(url).batches(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not [t.name for t in threading.enumerate() if t.name.startswith("shardrec")]


def test_columns_that_no_feature_uses_are_not_fetched(store: ObjectStore, tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows=256, rows_per_row_group=128)
    noise = np.random.default_rng(0).bytes(256 * 4096)
    wide = pa.array([noise[i * 4096 : (i + 1) * 4096] for i in range(256)])
    table = written.tables["train"].append_column("keep.picture", wide)
    split = write_split(tmp_path, "train", table, 128, 256)
    manifest = written.manifest.model_copy(update={"splits": {"train": split}})
    manifest.save(tmp_path)
    reader = open_url(store.upload(tmp_path, "prepared/wide"))
    store.requests.clear()
    assert_equal(reader.batches(0), open_tiny(replace(written, manifest=manifest)).batches(0))
    fetched = [size for size in store.fetched("part-00000.parquet") if size is not None]
    assert split.files[0].bytes > 1 << 20
    assert sum(fetched) < 200_000


def test_memory_of_what_is_fetched_ahead_is_bounded(
    store: ObjectStore, whole: WrittenDataset, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row groups above the limit are fetched one by one, however many may be fetched ahead."""
    monkeypatch.setattr("trainer.data.fetching._WAITING_BYTES", 1)
    entry = whole.manifest.splits["train"]
    fetcher = RowGroupFetcher(PartFiles(url, entry), Columns(whole.manifest.spec), range(16))
    store.requests.clear()
    for row_group in range(4):
        assert fetcher.take(row_group).metadata.num_rows == 256
    fetcher.close()
    assert len(store.fetched("part-00000.parquet")) <= 1 + 4
    assert len(store.fetched("part-00001.parquet")) <= 1 + 1
    assert not store.fetched("part-00002.parquet")


def row_group_requests(store: ObjectStore, whole: WrittenDataset) -> Callable[[Request], bool]:
    """Return what tells the requests for row groups: for a footer, all of such a small file is asked for."""
    sizes = {file.path.rpartition("/")[2]: file.bytes for file in whole.manifest.splits["train"].files}

    def is_row_group(request: Request) -> bool:
        size = sizes.get(request.path.rpartition("/")[2])
        return request.method == "GET" and size is not None and request.bytes not in (None, size)

    return is_row_group


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_as_many_row_groups_as_are_allowed_are_under_way_at_once(
    store: ObjectStore, whole: WrittenDataset, url: str, depth: int
) -> None:
    is_row_group = row_group_requests(store, whole)
    together, lock = threading.Barrier(depth), threading.Lock()
    met: list[Request] = []

    def meet(request: Request) -> None:
        if is_row_group(request) and len(met) < depth:
            with lock:
                met.append(request)
            together.wait(60)  # None of them is answered before all of them have come.

    store.before = meet
    policy = ReadPolicy(remote_prefetch_row_groups=depth)
    files = PartFiles(url, whole.manifest.splits["train"], policy)
    fetcher = RowGroupFetcher(files, Columns(whole.manifest.spec), range(16))
    for row_group in range(4):
        fetcher.take(row_group)
    fetcher.close()
    assert len(met) == depth
    asked = [request for request in store.requests if is_row_group(request)]
    assert len(asked) <= 4 + depth


def test_a_row_group_is_handed_on_while_later_ones_are_under_way(
    store: ObjectStore, whole: WrittenDataset, url: str
) -> None:
    taken, later = threading.Event(), threading.Event()

    def hold(request: Request) -> None:
        if request.path.endswith("part-00003.parquet"):
            later.set()
            assert taken.wait(60)

    store.before = hold
    policy = ReadPolicy(remote_prefetch_row_groups=2)
    files = PartFiles(url, whole.manifest.splits["train"], policy)
    fetcher = RowGroupFetcher(files, Columns(whole.manifest.spec), [0, 15])
    assert fetcher.take(0).metadata.num_rows > 0
    assert later.wait(60)
    taken.set()
    fetcher.take(15)
    fetcher.close()


@pytest.mark.parametrize("depth", [0, 2])
def test_ctrl_c_ends_the_tries_and_the_threads(store: ObjectStore, url: str, depth: int) -> None:
    """The store fails for good, with tries without end: only what Ctrl-C does can end them."""
    reader = open_url(url, policy=ReadPolicy(remote_attempts=10**9))
    pressed = threading.Lock()

    def press(request: Request) -> None:
        if request.method == "GET" and "/train/part-" in request.path:
            store.failures[request.path] = 10**9
            if len(store.fetched(".parquet")) > 4 and pressed.acquire(blocking=False):
                os.kill(os.getpid(), signal.SIGINT)

    store.before, store.status = press, "503 Slow Down"
    with pytest.raises(KeyboardInterrupt):
        next(prefetched(reader.batches(0), depth))
    gc.collect()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("shardrec")]


FAULTS = ["500 Internal Server Error", "503 Slow Down", ""]
"""The last one cuts the connection."""


@pytest.mark.parametrize("status", FAULTS)
def test_faults_inside_an_epoch_are_borne(
    store: ObjectStore, whole: WrittenDataset, url: str, status: str
) -> None:
    reader = open_url(url)
    store.failures["part-00001.parquet"], store.status = 4, status
    assert_equal(reader.batches(0), open_tiny(whole).batches(0))
    assert store.failures.pop("part-00001.parquet") == 0


@pytest.mark.parametrize("status", FAULTS)
def test_faults_that_stay_name_file_and_row_group_after_the_tries_that_were_asked_for(
    store: ObjectStore, url: str, status: str
) -> None:
    reader = open_url(url, shuffle=False, policy=ReadPolicy("skip", 1, 2))
    store.failures["part-00002.parquet"], store.status = 1000, status
    with pytest.raises(StoreError) as caught:
        list(reader.batches(0))
    for words in ("2 tries failed", f"{url}/train/part-00002.parquet, row group 0", "AWS_ENDPOINT_URL"):
        assert words in str(caught.value)
    if status:
        assert f"status {status[:3]}" in str(caught.value)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("shardrec")]


def test_lost_access_inside_an_epoch_names_the_bucket(
    store: ObjectStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = open_url(url, policy=ReadPolicy("skip"))
    store.use(monkeypatch, AWS_SECRET_ACCESS_KEY="hunter2")
    with pytest.raises(StoreError, match=r"refuses access to bucket 'ads-bucket'[\s\S]*part-0000") as caught:
        list(reader.batches(0))
    assert "hunter2" not in str(caught.value)


@pytest.fixture(scope="module")
def damaged(store: ObjectStore, whole: WrittenDataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The data set with a damaged row group, a truncated file, and a column of another type."""
    folder = shutil.copytree(whole.folder, tmp_path_factory.mktemp("damaged") / "copy")
    parts = [folder / file.path for file in whole.manifest.splits["train"].files]
    flip_bytes(parts[0], 2, "m0")
    truncate(parts[1], 5000)
    parts[2].unlink()
    return store.upload(folder, "prepared/damaged")


@pytest.mark.filterwarnings("ignore:skipping .* rows:UserWarning")
def test_damaged_row_groups_are_skipped(whole: WrittenDataset, damaged: str) -> None:
    lost = {*range(128, 192), *range(256, 768)}
    batches = open_url(damaged, shuffle=False, policy=ReadPolicy("skip")).batches(0)
    for batch, other in zip(batches, open_tiny(whole, shuffle=False).batches(0), strict=True):
        for position, row in enumerate(other.rows_B.tolist()):
            skipped = row in lost
            assert batch.rows_B[position] == (-2 if skipped else row)
            assert batch.weights_B[position] == (0 if skipped else other.weights_B[position])


def test_damage_is_named(store: ObjectStore, whole: WrittenDataset, damaged: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=rf"missing[\s\S]*{damaged}/train/part-00002.parquet"):
        open_url(damaged)
    entry = whole.manifest.splits["train"]
    shutil.copy(whole.folder / entry.files[2].path, tmp_path)
    store.upload(tmp_path, "prepared/damaged/train")
    batches = open_url(damaged, shuffle=False).batches(0)
    with pytest.raises(DamagedError, match=rf"{damaged}/train/part-0000(0.parquet, row group 2|1.parquet\s)"):
        list(batches)


def test_kept_column_is_read_in_row_order(whole: WrittenDataset, url: str) -> None:
    kept = KeptColumns(as_place(url), whole.manifest, "train", ReadPolicy())
    assert all_values(kept, "row") == list(range(1003))
    kept.require("row")
    with pytest.raises(DataError, match=r"does not hold this column[\s\S]*allowed: row"):
        kept.require("rows")


def test_petastorm_refuses_a_store(url: str) -> None:
    pytest.importorskip("petastorm")
    with pytest.raises(ConfigError, match=r"petastorm cannot read object stores[\s\S]*data.reader: arrow"):
        open_url(url, reader="petastorm")
