"""FAISS indexes by inner product: their kinds and parameters, how they are built and asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jobs.errors import EnvironmentFault
from trainer.errors import UserError

Kind = Literal["flat", "ivf", "hnsw"]
KINDS: tuple[Kind, ...] = ("flat", "ivf", "hnsw")
# Vectors that one centroid needs to be trained on, by FAISS's own warning.
_VECTORS_PER_LIST = 39
_TRAINED_ON = 256
_OF_SEARCH = {"flat": (), "ivf": ("nprobe",), "hnsw": ("efSearch",)}


def faiss() -> Any:
    """Return the module.

    Raises:
        EnvironmentFault: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise EnvironmentFault(
            "an index of items needs FAISS, which is not installed",
            where="faiss",
            fixes=["pip install faiss-cpu", "make setup EXTRAS=cpu,faiss"],
        ) from error
    return faiss


@dataclass(frozen=True)
class KindOfIndex:
    """What kind of index, by FAISS's names.

    Attributes:
        kind: `flat` compares a query with every vector; `ivf` with those of the nearest of `nlist` lists;
            `hnsw` walks a graph from vector to vector.
        parameters: `ivf`: `nlist`, and `nprobe` lists that a search looks into; `hnsw`: `M` neighbours of a
            vector, `efConstruction` and `efSearch` candidates while building and searching.
    """

    kind: Kind
    parameters: dict[str, int]

    @classmethod
    def of(cls, kind: str, count: int, given: Mapping[str, int] | None = None) -> KindOfIndex:
        """Return a kind with what is given, and by default what fits so many vectors.

        Raises:
            UserError: there is no such kind or parameter, or a number is out of range.
        """
        if kind not in KINDS:
            raise UserError("no such kind of index", where="--kind", got=kind, allowed=list(KINDS))
        known = _defaults(kind, count)
        found = {**known, **check_parameters(given or {}, known, kind)}
        if kind == "ivf" and found["nlist"] > count:
            raise UserError(
                "there are more lists than items",
                where="--parameter nlist",
                got=found["nlist"],
                allowed=f"1 to {count:,}",
                fixes=[f"--parameter nlist={known['nlist']}"],
            )
        if kind == "ivf" and "nprobe" not in (given or {}):
            found["nprobe"] = _nprobe(found["nlist"])
        return cls(kind, found)

    def build(self, blocks: Iterable[NDArray[np.float32]], sample: NDArray[np.float32]) -> Any:
        """Return the FAISS index of vectors in their order.

        Args:
            blocks: of vectors [n, X].
            sample: of them, that `ivf` finds the centroids of its lists by.
        """
        index = self._empty(sample.shape[1])
        if not index.is_trained:
            index.train(sample)
        for block in blocks:
            index.add(np.ascontiguousarray(block))
        return index

    def sample_size(self, count: int) -> int:
        """Return how many of so many vectors `build` wants as its sample."""
        return min(count, _TRAINED_ON * self.parameters["nlist"]) if self.kind == "ivf" else 1

    def _empty(self, width: int) -> Any:
        module, values = faiss(), self.parameters
        by = module.METRIC_INNER_PRODUCT
        if self.kind == "flat":
            return module.IndexFlatIP(width)
        if self.kind == "ivf":
            index = module.IndexIVFFlat(module.IndexFlatIP(width), width, values["nlist"], by)
            index.nprobe = values["nprobe"]
            # Few vectors make poor centroids, which is no reason to speak past us on stderr.
            index.cp.min_points_per_centroid = 1
            return index
        index = module.IndexHNSWFlat(width, values["M"], by)
        index.hnsw.efConstruction, index.hnsw.efSearch = values["efConstruction"], values["efSearch"]
        return index


def check_parameters(given: Mapping[str, int], known: Iterable[str], kind: str) -> dict[str, int]:
    """Return parameters that a kind of index has.

    Raises:
        UserError: it has none of that name, or the number is below 1 (`M`: 2).
    """
    allowed = list(known)
    for name, value in given.items():
        if name not in allowed:
            raise UserError(
                f"an index of kind {kind} has no such parameter",
                where="--parameter",
                got=name,
                allowed=allowed or "none",
            )
        least = 2 if name == "M" else 1
        if value < least:
            raise UserError(
                "the number is too small", where=f"--parameter {name}", got=value, allowed=f"{least} or more"
            )
    return dict(given)


def search_parameters(kind: str, given: Mapping[str, int] | None) -> dict[str, int]:
    """Return those of a search.

    Raises:
        UserError: see `check_parameters`.
    """
    return check_parameters(given or {}, _OF_SEARCH[kind], kind)


def ask(
    index: Any, kind: str, values: Mapping[str, int], queries_QX: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the scores and numbers of the best `count` vectors of each query, -1 where there are fewer.

    Args:
        index: FAISS's.
        kind: of it.
        values: parameters of the search.
        queries_QX: queries.
        count: of vectors.
    """
    module, options = faiss(), {}
    if kind == "ivf":
        options["params"] = module.SearchParametersIVF(nprobe=min(values["nprobe"], index.nlist))
    elif kind == "hnsw":
        # Fewer candidates than are asked for would leave the list short.
        options["params"] = module.SearchParametersHNSW(efSearch=max(values["efSearch"], count))
    scores_QK, numbers_QK = index.search(np.ascontiguousarray(queries_QX), count, **options)
    return scores_QK, numbers_QK


def _defaults(kind: str, count: int) -> dict[str, int]:
    if kind == "ivf":
        nlist = max(1, min(round(4 * math.sqrt(count)), count // _VECTORS_PER_LIST))
        return {"nlist": nlist, "nprobe": _nprobe(nlist)}
    if kind == "hnsw":
        return {"M": 32, "efConstruction": 200, "efSearch": 128}
    return {}


def _nprobe(nlist: int) -> int:
    """Return an eighth of the lists, or four where there are few."""
    return min(nlist, max(4, math.ceil(nlist / 8)))


def write_index(index: Any, path: Path) -> None:
    """Write a FAISS index."""
    faiss().write_index(index, str(path))


def read_index(path: Path) -> Any:
    """Read a FAISS index."""
    return faiss().read_index(str(path))
