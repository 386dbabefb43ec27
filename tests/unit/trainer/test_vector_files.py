"""Files of vectors by raw id: what is read, and what is refused before it spoils a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from tests.support.object_store import ObjectStore
from trainer import vector_files
from trainer.config.plan import PretrainedConfig
from trainer.errors import DataError
from trainer.vector_files import VectorFile

VECTORS = np.arange(12, dtype=np.float32).reshape(6, 2)
IDS = ["a", "b", "c", "d", "e", "f"]


def parquet(path: Path, ids: list[Any] = IDS, vectors: Any = VECTORS, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = vectors if isinstance(vectors, pa.Array) else pa.array(list(vectors))
    pq.write_table(pa.table({"id": ids, "vector": lists, **columns}), path, row_group_size=4)
    return path


def opened(path: Path | str, dim: int = 2, **columns: str | None) -> VectorFile:
    named: dict[str, Any] = {"id_column": "id", "vector_column": "vector", **columns}
    named = {} if str(path).endswith(".npy") else named
    return VectorFile(PretrainedConfig(path=str(path), **named), dim, "tables.item.pretrained")


def read(file: VectorFile) -> tuple[list[Any], np.ndarray, int]:
    """Return ids, vectors and the number of batches."""
    batches = list(file.batches())
    ids = [value for ids, _ in batches for value in ids.to_pylist()]
    return ids, np.concatenate([vectors for _, vectors in batches]), len(batches)


def test_a_file_and_a_folder_are_read_a_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_files, "_BATCH_BYTES", 2 * 8 * 3)  # three rows
    whole = parquet(tmp_path / "vectors.parquet")
    parquet(tmp_path / "parts" / "1.parquet", IDS[:2], VECTORS[:2].astype(np.float64))
    parquet(
        tmp_path / "parts" / "2.parquet", IDS[2:], pa.FixedSizeListArray.from_arrays(VECTORS[2:].ravel(), 2)
    )
    # Row groups of 4 and 2, cut into 3 + 1 and 2; then files of 2 and 4.
    for path, batches in ((whole, 3), (tmp_path / "parts", 3)):
        ids, vectors, count = read(opened(path))
        assert ids == IDS
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, VECTORS)
        assert count == batches


def test_an_array_has_its_row_numbers_as_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_files, "_BATCH_BYTES", 2 * 8 * 4)
    np.save(tmp_path / "vectors.npy", VECTORS.astype(np.float16))
    ids, vectors, count = read(opened(tmp_path / "vectors.npy"))
    assert ids == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(vectors, VECTORS)
    assert count == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"ids": [*IDS[:5], None]}, "has no id"),
        ({"vectors": [[1.0, 2.0]] * 5 + [[1.0]]}, "another length"),
        ({"vectors": [[1.0, 2.0]] * 5 + [[1.0, float("inf")]]}, "finite"),
        ({"vectors": [[1.0, 2.0]] * 5 + [[1.0, 1e39]]}, "finite"),
        ({"vectors": [[1.0, 2.0]] * 5 + [None]}, "finite"),
        ({"vectors": pa.array(["1 2"] * 6)}, "no lists of numbers"),
    ],
    ids=["id", "length", "infinite", "large", "null", "text"],
)
def test_ids_and_vectors_that_are_none_are_refused(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(opened(parquet(tmp_path / "vectors.parquet", **columns)))
    assert error.value.where.startswith("tables.item.pretrained")


def test_another_width_tells_what_to_set(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", VECTORS)
    for path in (parquet(tmp_path / "vectors.parquet"), tmp_path / "vectors.npy"):
        with pytest.raises(DataError) as error:
            read(opened(path, dim=8))
        assert (error.value.got, error.value.allowed) == (2, 8)
        assert error.value.fixes == ("tables.item.embedding_dim: 2",)


def test_what_cannot_be_read_is_told_with_its_place(tmp_path: Path) -> None:
    for name in ("missing.parquet", "missing.npy"):
        with pytest.raises(DataError, match="no such file"):
            read(opened(tmp_path / name))
    for name in ("damaged.parquet", "damaged.npy"):
        (tmp_path / name).write_bytes(b"PAR1 and no more")
        with pytest.raises(DataError, match="cannot be read"):
            read(opened(tmp_path / name))
    np.save(tmp_path / "text.npy", np.array([["a"]]))
    with pytest.raises(DataError, match="one vector in each row"):
        read(opened(tmp_path / "text.npy"))
    with pytest.raises(DataError, match="lacks a column") as error:
        read(opened(parquet(tmp_path / "vectors.parquet"), id_column="movie"))
    assert error.value.where == "tables.item.pretrained.id_column"
    assert error.value.allowed == ["id", "vector"]


@pytest.mark.parametrize(
    "keys", [{"path": "a.npy", "id_column": "id"}, {"path": "a.parquet", "id_column": "id"}], ids=str
)
def test_columns_belong_to_parquet_files(keys: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="id_column"):
        PretrainedConfig(**keys)


@pytest.mark.thorough
def test_files_on_a_store_are_read_and_tried_again(
    tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.renew(monkeypatch)
    folder = tmp_path / "vectors"
    parquet(folder / "a" / "vectors.parquet")
    np.save(folder / "vectors.npy", VECTORS)
    url = store.upload(folder, "vectors")
    for path in (f"{url}/a/vectors.parquet", f"{url}/a", f"{url}/vectors.npy"):
        store.failures = {path.rpartition("/")[2]: 1}
        np.testing.assert_array_equal(read(opened(path))[1], VECTORS)
    with pytest.raises(DataError, match="no such file"):
        read(opened(f"{url}/missing.parquet"))
