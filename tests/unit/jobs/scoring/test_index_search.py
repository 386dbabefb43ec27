"""Search in an index against numpy's own sorting of all dot products."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import EnvironmentFault
from jobs.scoring import faiss_kinds
from jobs.scoring.faiss_kinds import KindOfIndex, write_index
from jobs.scoring.index_search import FAISS_FILE, INDEX_FILE, ITEMS_FOLDER, IndexInfo, ItemIndex, search
from trainer.errors import DataError, UserError

faiss = pytest.importorskip("faiss")
WIDTH, FIRST_ID = 24, 2


def clustered(count: int, seed: int, *, bias: bool = False) -> np.ndarray:
    """Return vectors around 40 centres, as trained items lie; with a bias the last column is one."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(40, WIDTH))
    made = centres[rng.integers(0, 40, count)] + 0.5 * rng.normal(size=(count, WIDTH))
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    if bias:
        made[:, -1] = rng.normal(size=count)
    return made.astype(np.float32)


def made_index(folder: Path, vectors: np.ndarray, kind: str = "flat", **parameters: int) -> ItemIndex:
    """Write vectors in two parts as `index` does; the item of id i is called `item-<7 i>`."""
    chosen = KindOfIndex.of(kind, len(vectors), parameters)
    items = folder / ITEMS_FOLDER
    items.mkdir(parents=True)
    half = len(vectors) // 2
    for number, rows in enumerate((range(half), range(half, len(vectors)))):
        ids = np.array(rows, np.int64) + FIRST_ID
        flat = pa.array(vectors[rows.start : rows.stop].reshape(-1))
        columns = {
            "item": [f"item-{7 * i}" for i in ids],
            "id": ids,
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
        pq.write_table(pa.table(columns), items / f"part-{number:05d}.parquet")
    index = chosen.build(iter(np.split(vectors, [half])), vectors)
    write_index(index, folder / FAISS_FILE)
    info = IndexInfo(
        "runs/a", "step_1", "0" * 16, "mf", "song", kind, chosen.parameters, "inner_product",
        vectors.shape[1], len(vectors), 1.0,
    )  # fmt: skip
    (folder / INDEX_FILE).write_text(json.dumps(asdict(info)))
    return ItemIndex.open(folder)


def brute_force(vectors: np.ndarray, queries: np.ndarray, k: int, seen: list[list[int]] | None) -> list[Any]:
    """Return the places of the best unseen vectors of each query, by float64 sums and a full sort."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    found = []
    for row, own in enumerate(scores):
        order = [place for place in np.argsort(-own, kind="stable") if place not in (seen or {row: []})[row]]
        found.append(order[:k])
    return found


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    # A graph that several threads build differs from run to run.
    faiss.omp_set_num_threads(1)


@pytest.mark.parametrize("bias", [False, True])
def test_a_flat_index_finds_what_brute_force_ranks_first(tmp_path: Path, bias: bool) -> None:
    vectors, queries = clustered(500, 1, bias=bias), clustered(60, 2)
    if bias:
        queries[:, -1] = 1.0
    found = made_index(tmp_path, vectors).search(queries, 20)
    expected = brute_force(vectors, queries, 20, None)
    assert (found.ids_QK - FIRST_ID).tolist() == expected
    assert found.items_QK.tolist() == [[f"item-{7 * (p + FIRST_ID)}" for p in row] for row in expected]
    own = np.take_along_axis(queries @ vectors.T, np.array(expected), axis=1)
    np.testing.assert_allclose(found.scores_QK, own, rtol=1e-5)


def test_of_equal_scores_all_are_found_and_none_twice(tmp_path: Path) -> None:
    one = clustered(1, 1)
    vectors = np.concatenate([np.repeat(one, 30, axis=0), -np.repeat(one, 5, axis=0)])
    found = made_index(tmp_path, vectors).search(one, 30, [np.array([], np.int64)])
    assert sorted(found.ids_QK[0]) == list(range(FIRST_ID, FIRST_ID + 30))
    assert len(set(found.scores_QK[0].tolist())) == 1


@pytest.mark.parametrize(
    ("kind", "least"), [("flat", 1.0), ("ivf", 0.9), ("hnsw", 0.95)], ids=["flat", "ivf", "hnsw"]
)
@pytest.mark.parametrize("bias", [False, True])
def test_recall_against_brute_force(tmp_path: Path, kind: str, least: float, bias: bool) -> None:
    vectors, queries = clustered(4_000, 1, bias=bias), clustered(100, 2)
    if bias:
        queries[:, -1] = 1.0
    found = made_index(tmp_path, vectors, kind).search(queries, 20).ids_QK - FIRST_ID
    expected = brute_force(vectors, queries, 20, None)
    hits = [len({*mine} & {*best}) / 20 for mine, best in zip(found.tolist(), expected, strict=True)]
    assert np.mean(hits) >= least


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_seen_items_are_left_out_and_the_list_stays_full(tmp_path: Path, kind: str) -> None:
    vectors, queries = clustered(1_000, 1), clustered(40, 2)
    rng = np.random.default_rng(3)
    best = brute_force(vectors, queries, 400, None)
    # Some have seen most of what is near to them, so that an ivf has to look further.
    seen = [[int(p) for p in row[: rng.integers(0, 400)]] for row in best]
    lists = [np.array([0, 1, 10**9, *(p + FIRST_ID for p in own)], np.int64) for own in seen]
    index = made_index(tmp_path, vectors, kind)
    found = index.search(queries, 10, lists)
    for row, ids in enumerate((found.ids_QK - FIRST_ID).tolist()):
        assert len(set(ids)) == 10
        assert not {*ids} & {*seen[row]}
    if kind == "flat":
        assert (found.ids_QK - FIRST_ID).tolist() == brute_force(vectors, queries, 10, seen)


def test_a_query_that_has_seen_nearly_all_gets_what_is_left(tmp_path: Path) -> None:
    vectors, queries = clustered(50, 1), clustered(2, 2)
    seen = [np.arange(47) + FIRST_ID, np.zeros(0, np.int64)]
    for kind in ("flat", "ivf", "hnsw"):
        found = made_index(tmp_path / kind, vectors, kind).search(queries, 60, seen)
        assert sorted(found.ids_QK[0][:3] - FIRST_ID) == [47, 48, 49]
        assert found.ids_QK[0][3:].tolist() == [0] * 57
        assert found.items_QK[0][3:].tolist() == [None] * 57
        assert np.isneginf(found.scores_QK[0][3:]).all()
        assert sorted(found.ids_QK[1][:50] - FIRST_ID) == list(range(50))


def test_search_takes_raw_ids_of_what_was_seen(tmp_path: Path) -> None:
    vectors, queries = clustered(100, 1), clustered(3, 2)
    made_index(tmp_path, vectors)
    plain = search(tmp_path, queries, 4)
    seen = [[plain.items_QK[0, 0], "item-that-is-new"], [], [plain.items_QK[2, 1]]]
    found = search(tmp_path, queries.tolist(), 3, seen=seen)
    assert found.items_QK[0].tolist() == plain.items_QK[0, 1:].tolist()
    assert found.items_QK[1].tolist() == plain.items_QK[1, :3].tolist()
    assert found.items_QK[2].tolist() == plain.items_QK[2, [0, 2, 3]].tolist()


def test_a_search_may_look_into_more_lists(tmp_path: Path) -> None:
    vectors, queries = clustered(2_000, 1), clustered(50, 2)
    index = made_index(tmp_path, vectors, "ivf", nlist=40, nprobe=1)
    expected = brute_force(vectors, queries, 10, None)
    few, all_ = (index.search(queries, 10, parameters=p).ids_QK - FIRST_ID for p in (None, {"nprobe": 40}))
    assert all_.tolist() == expected
    assert few.tolist() != expected


def test_defaults_follow_the_number_of_items() -> None:
    assert KindOfIndex.of("flat", 10).parameters == {}
    assert KindOfIndex.of("ivf", 1_000_000).parameters == {"nlist": 4_000, "nprobe": 500}
    assert KindOfIndex.of("ivf", 3_900).parameters == {"nlist": 100, "nprobe": 13}
    assert KindOfIndex.of("ivf", 20).parameters == {"nlist": 1, "nprobe": 1}
    assert KindOfIndex.of("ivf", 500, {"nlist": 16}).parameters == {"nlist": 16, "nprobe": 4}
    assert KindOfIndex.of("hnsw", 20, {"M": 8}).parameters["M"] == 8


@pytest.mark.parametrize(
    ("kind", "given", "where", "got"),
    [
        ("annoy", {}, "--kind", "annoy"),
        ("flat", {"nprobe": 1}, "--parameter", "nprobe"),
        ("hnsw", {"nlist": 4}, "--parameter", "nlist"),
        ("hnsw", {"M": 1}, "--parameter M", 1),
        ("ivf", {"nlist": 0}, "--parameter nlist", 0),
        ("ivf", {"nlist": 101}, "--parameter nlist", 101),
    ],
)
def test_wrong_kinds_and_parameters_are_named(kind: str, given: dict[str, int], where: str, got: Any) -> None:
    with pytest.raises(UserError) as raised:
        KindOfIndex.of(kind, 100, given)
    assert (raised.value.where, raised.value.got) == (where, got)


def test_wrong_searches_are_named(tmp_path: Path) -> None:
    index = made_index(tmp_path, clustered(20, 1))
    with pytest.raises(UserError, match="do not fit the index"):
        index.search(np.zeros((2, WIDTH + 1), np.float32), 3)
    with pytest.raises(UserError, match="for each query"):
        search(index, clustered(2, 1), 3, seen=[[]])
    with pytest.raises(UserError, match="no such parameter"):
        index.search(clustered(2, 1), 3, parameters={"nprobe": 2})


@pytest.mark.parametrize("content", [None, "{", '{"run": "a"}', "[]"])
def test_a_folder_without_an_index_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / INDEX_FILE).write_text(content)
    with pytest.raises(DataError, match="not an index of items") as raised:
        ItemIndex.open(tmp_path)
    assert str(tmp_path) in str(raised.value.where)


def test_faiss_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(EnvironmentFault, match="pip install faiss-cpu"):
        faiss_kinds.faiss()
