"""An index of items in a folder, and the search in it.

A folder holds `items/` (Parquet: `item`, `id`, `vector`, in the order of the ids), `index.faiss`, whose
number i is row i of these, and `index.json`, written last, which says what the index is of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from jobs.scoring.faiss_kinds import ask, read_index, search_parameters
from trainer.errors import DataError, UserError
from trainer.run_folder import read_json

INDEX_FILE, FAISS_FILE, ITEMS_FOLDER = "index.json", "index.faiss", "items"
# Queries, and the results that are asked for, in memory at once.
_QUERIES_AT_ONCE, _RESULTS_AT_ONCE = 4096, 1 << 24


@dataclass(frozen=True)
class IndexInfo:
    """What an index is of: the content of `index.json`.

    Attributes:
        run: its run folder.
        checkpoint: whose weights made the vectors.
        spec_hash: of the features.
        model: its name.
        item: raw column of the items.
        kind: `flat`, `ivf` or `hnsw`.
        parameters: of the kind.
        metric: `inner_product`: of a query's vector and an item's it is the model's score.
        dimension: X; models with a bias of each item have it as a column of the vectors.
        count: items.
        temperature: what the training divided scores by; the index does not.
    """

    run: str
    checkpoint: str
    spec_hash: str
    model: str
    item: str
    kind: str
    parameters: dict[str, int]
    metric: str
    dimension: int
    count: int
    temperature: float
    format_version: int = 1


@dataclass(frozen=True)
class Found:
    """The best items of Q queries.

    Attributes:
        items_QK: raw ids, best first; None where there are fewer.
        scores_QK: dot products, float32; -inf where there are fewer.
        ids_QK: ids of the items in the vocabulary; 0 where there are fewer.
    """

    items_QK: NDArray[np.object_]
    scores_QK: NDArray[np.float32]
    ids_QK: NDArray[np.int64]


@dataclass(frozen=True)
class ItemIndex:
    """An index in a folder.

    Attributes:
        path: its folder.
        info: what it is of.
    """

    path: Path
    info: IndexInfo

    @classmethod
    def open(cls, path: str | Path) -> ItemIndex:
        """Open a folder.

        Raises:
            DataError: it holds no index, or one of a later version.
        """
        file = Path(path) / INDEX_FILE
        try:
            values = read_json(file)
            info = IndexInfo(**values)
        except (OSError, json.JSONDecodeError, TypeError) as error:
            raise DataError(
                "not an index of items: it has no readable index.json",
                where=str(file),
                fixes=["make it: shardrec index RUN --out FOLDER"],
            ) from error
        if info.format_version != 1:
            raise DataError(
                "the index is of another version of the format",
                where=str(file),
                got=info.format_version,
                allowed=1,
                fixes=["make it again: shardrec index RUN --out FOLDER"],
            )
        return cls(Path(path), info)

    def as_json(self) -> dict[str, Any]:
        """Return the `--json` form of `index`."""
        return {"index": str(self.path), **asdict(self.info)}

    def text(self) -> str:
        """Return the result for people."""
        info = self.info
        chosen = ", ".join(f"{name} {value}" for name, value in info.parameters.items())
        kind = f"{info.kind} ({chosen})" if chosen else info.kind
        return (
            f"{info.count:,} items of {info.dimension} columns, {kind}, inner product: {self.path}\n"
            f"run {info.run} ({info.checkpoint}), temperature {info.temperature:g}"
        )

    @cached_property
    def raw_items(self) -> NDArray[np.object_]:
        """Return the raw ids in the order of the index."""
        return np.array(_column(self.path, "item").to_pylist(), dtype=object)

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """Return the ids of the vocabulary in the order of the index."""
        ids: NDArray[np.int64] = _column(self.path, "id").to_numpy()
        return ids

    @cached_property
    def _faiss(self) -> Any:
        return read_index(self.path / FAISS_FILE)

    def search(
        self,
        queries_QX: NDArray[np.float32],
        k: int,
        seen: Sequence[NDArray[np.int64]] | None = None,
        parameters: Mapping[str, int] | None = None,
    ) -> Found:
        """Return the best items of queries, without those that each has seen.

        Each query is asked for as many more items as it has seen, which are then dropped; where the lists of
        an `ivf` hold fewer, more lists are looked into.

        Args:
            queries_QX: [Q, X].
            k: items of a query.
            seen: for each query ids (of the vocabulary) to leave out; ids that are no items do not matter.
            parameters: of the search, `nprobe` or `efSearch`; default the index's.

        Raises:
            UserError: the queries are of another width, or a parameter is wrong.
        """
        queries_QX = np.asarray(queries_QX, dtype=np.float32)
        if queries_QX.ndim != 2 or queries_QX.shape[1] != self.info.dimension:
            raise UserError(
                "the queries do not fit the index",
                where=str(self.path),
                got=f"an array of {queries_QX.shape}",
                allowed=f"[queries, {self.info.dimension}]",
                fixes=["vectors of the run that the index is of"],
            )
        if seen is not None and len(seen) != len(queries_QX):
            raise UserError(
                "there must be a list of seen items for each query", where="seen", got=len(seen),
                allowed=len(queries_QX),
            )  # fmt: skip
        values = {**self.info.parameters, **search_parameters(self.info.kind, parameters)}
        nothing = np.zeros(0, np.int64)
        lists = [self._places(ids) for ids in seen] if seen is not None else [nothing] * len(queries_QX)
        sizes = np.array([len(places) for places in lists], dtype=np.int64)
        place_QK = np.full((len(queries_QX), k), -1, dtype=np.int64)
        scores_QK = np.full((len(queries_QX), k), -np.inf, dtype=np.float32)
        for rows in _alike(sizes, k):
            some = [lists[row] for row in rows]
            place_QK[rows], scores_QK[rows] = self._unseen(queries_QX[rows], k, some, values)
        none = place_QK < 0
        found = [column[np.maximum(place_QK, 0)] for column in (self.raw_items, self.ids)]
        found[0][none], found[1][none] = None, 0
        return Found(found[0], scores_QK, found[1])

    def _places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where items stand in the index; ids that are none are left out."""
        place = np.searchsorted(self.ids, ids)
        known = (place < len(self.ids)) & (self.ids[np.minimum(place, len(self.ids) - 1)] == ids)
        found: NDArray[np.int64] = np.unique(place[known])
        return found

    def _unseen(
        self,
        queries_RX: NDArray[np.float32],
        k: int,
        seen: list[NDArray[np.int64]],
        values: Mapping[str, int],
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the places and scores of the best unseen items of some queries, [R, k]."""
        count, values = self.info.count, dict(values)
        asked = min(k + max(len(places) for places in seen), count)
        wanted_R = np.array([min(k, count - len(places)) for places in seen])
        # A row and a place in it as one number.
        rows_R1 = np.arange(len(seen))[:, None] * count
        held = np.concatenate([places + row * count for row, places in enumerate(seen)])
        while True:
            scores_RC, place_RC = ask(self._faiss, self.info.kind, values, queries_RX, asked)
            if len(held):
                place_RC = np.where(np.isin(place_RC + rows_R1, held) & (place_RC >= 0), -1, place_RC)
            have_R = np.minimum((place_RC >= 0).sum(axis=1), k)
            nlist = getattr(self._faiss, "nlist", 0)
            if (have_R >= wanted_R).all() or not _widened(values, nlist, count):
                break
        order_RC = np.argsort(place_RC < 0, axis=1, kind="stable")[:, :k]
        place_RK = np.full((len(seen), k), -1, dtype=np.int64)
        scores_RK = np.full((len(seen), k), -np.inf, dtype=np.float32)
        width = order_RC.shape[1]
        place_RK[:, :width] = np.take_along_axis(place_RC, order_RC, axis=1)
        scores_RK[:, :width] = np.take_along_axis(scores_RC, order_RC, axis=1)
        scores_RK[place_RK < 0] = -np.inf
        return place_RK, scores_RK


def search(
    index: ItemIndex | str | Path,
    queries: ArrayLike,
    k: int = 10,
    *,
    seen: Sequence[Sequence[Any]] | None = None,
    parameters: Mapping[str, int] | None = None,
) -> Found:
    """Return the items of an index that have the largest dot products with queries.

    Args:
        index: what `index` returned, or its folder.
        queries: vectors of a model's queries, [Q, X].
        k: items of a query.
        seen: for each query raw ids of items to leave out.
        parameters: of the search: `nprobe` of an `ivf`, `efSearch` of an `hnsw`.

    Raises:
        DataError: the folder holds no index.
        UserError: the queries are of another width, or a parameter is wrong.
    """
    opened = index if isinstance(index, ItemIndex) else ItemIndex.open(index)
    known = None
    if seen is not None:
        ids = {str(item): number for item, number in zip(opened.raw_items, opened.ids, strict=True)}
        known = [np.array([ids[str(item)] for item in items if str(item) in ids], np.int64) for items in seen]
    return opened.search(np.asarray(queries, dtype=np.float32), k, known, parameters)


def _column(folder: Path, name: str) -> pa.ChunkedArray:
    parts = sorted((folder / ITEMS_FOLDER).glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part, columns=[name]) for part in parts])[name]


def _alike(sizes_Q: NDArray[np.int64], k: int) -> Iterator[NDArray[np.int64]]:
    """Yield the places of queries that are asked for about as many items each, as many as memory allows."""
    order_Q = np.argsort(sizes_Q, kind="stable")
    begin = 0
    while begin < len(order_Q):
        end = begin + _QUERIES_AT_ONCE
        most = k + int(sizes_Q[order_Q[begin:end]].max())
        chosen = order_Q[begin : begin + max(1, min(_QUERIES_AT_ONCE, _RESULTS_AT_ONCE // most))]
        yield chosen
        begin += len(chosen)


def _widened(values: dict[str, int], nlist: int, count: int) -> bool:
    """Look into twice as many lists, or at twice as many candidates; return whether there were more."""
    for name, most in (("nprobe", nlist), ("efSearch", count)):
        if name in values and values[name] < most:
            values[name] = min(2 * values[name], most)
            return True
    return False
