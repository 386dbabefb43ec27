"""Jobs that ranks run with models of queries and items: their vectors, and the best items of rows.

Each rank writes what it has, a part file of its own; see `trainer.rank_jobs` for requests and job folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from sharding.hosts import RankContext
from trainer.assembly import Assembly
from trainer.batch import Batch
from trainer.best_items import best_items
from trainer.modules.item_model import ItemModel
from trainer.rank_jobs import Request, assembled
from trainer.schema import Manifest
from trainer.storage import as_place
from trainer.tasks import asked

ITEM_VECTORS = "item_vectors"
"""Folder of a job with columns `id` and `vector`; parts by rank are in the order of the ids."""
QUERY_VECTORS = "query_vectors"
"""Folder of a job with columns `row` and `vector`."""
BEST_ITEMS = "best_items"
"""Folder of a job with columns `row`, `rank` (from 1), `id` and `score`."""
# Vectors that a row group holds.
_VECTORS_AT_ONCE = 1 << 16


def item_vectors_rank(job_folder: Path, context: RankContext) -> str:
    """Write what queries are scored against: this rank's share of the items."""
    with _opened(job_folder, context) as (_, assembly, batches):
        batch = next(batches).to(context.device)
        assembly.task.eval()
        with torch.no_grad():
            ids_N, vectors_NX = asked(assembly.task, "items", batch)
    with _part(job_folder / ITEM_VECTORS, context, _vector_schema("id", vectors_NX.shape[1])) as writer:
        for first in range(0, len(ids_N), _VECTORS_AT_ONCE):
            some = slice(first, first + _VECTORS_AT_ONCE)
            writer.write_table(_vector_table("id", ids_N[some], vectors_NX[some]))
    return "finished"


def query_vectors_rank(job_folder: Path, context: RankContext) -> str:
    """Write what rows are scored by: the queries of this rank's rows."""
    with _opened(job_folder, context) as (_, assembly, batches):
        assembly.task.eval()
        writer = None
        for given in batches:
            batch = given.to(context.device)
            with torch.no_grad():
                queries_BX = asked(assembly.task, "queries", batch)
            table = _vector_table("row", batch.rows_B[batch.rows_B >= 0], queries_BX[batch.rows_B >= 0])
            if writer is None:
                writer = pq.ParquetWriter(_part_file(job_folder / QUERY_VECTORS, context), table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()
    return "finished"


def best_items_rank(job_folder: Path, context: RankContext) -> str:
    """Write the best items of this rank's rows.

    The request's options: `count` items of a row; `known` whether the items to be found are left out too, and
    not only those that the row lists; `candidates`, see `best_items`.
    """
    with _opened(job_folder, context) as (request, assembly, batches):
        options, manifest = request.options, Manifest.load(as_place(request.dataset))
        model = next(module for module in assembly.task.modules() if isinstance(module, ItemModel))
        target = manifest.spec.target
        left_out = [*model.holders, *([target.name] if options["known"] and target is not None else [])]
        found = best_items(
            assembly.task,
            batches,
            context.device,
            options["count"],
            left_out=left_out if options["exclude"] else [],
            candidates=options["candidates"],
            seed=options["seed"],
        )
        schema = pa.schema({"row": pa.int64(), "rank": pa.int64(), "id": pa.int64(), "score": pa.float64()})
        with _part(job_folder / BEST_ITEMS, context, schema) as writer:
            for best in found:
                row_P, place_P = np.nonzero(best.ids_RK)
                columns = (
                    best.rows_R[row_P],
                    place_P + 1,
                    best.ids_RK[row_P, place_P],
                    best.scores_RK[row_P, place_P].astype(np.float64),
                )
                writer.write_table(pa.table(list(columns), schema=schema))
    return "finished"


@contextmanager
def _opened(job_folder: Path, context: RankContext) -> Iterator[tuple[Request, Assembly, Iterator[Batch]]]:
    """Give the request, the loaded model and this rank's batches."""
    request = Request.load(job_folder)
    # Whoever asks for rows takes them by number: none may be missing.
    run = replace(request, on_corrupt="fail").config()
    manifest = Manifest.load(as_place(request.dataset))
    assembly, batches, _ = assembled(job_folder, request, run, manifest, context)
    with closing(batches) as closed:  # type: ignore[type-var]
        yield request, assembly, closed


@contextmanager
def _part(folder: Path, context: RankContext, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    with pq.ParquetWriter(_part_file(folder, context), schema) as writer:
        yield writer


def _part_file(folder: Path, context: RankContext) -> Path:
    folder.mkdir(exist_ok=True)
    return folder / f"part-{context.rank:05d}.parquet"


def _vector_schema(number: str, width: int) -> pa.Schema:
    return pa.schema({number: pa.int64(), "vector": pa.list_(pa.float32(), width)})


def _vector_table(number: str, ids_N: Tensor, vectors_NX: Tensor) -> pa.Table:
    flat = pa.array(vectors_NX.float().cpu().contiguous().numpy().reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, vectors_NX.shape[1])
    schema = _vector_schema(number, vectors_NX.shape[1])
    return pa.table([pa.array(ids_N.cpu().numpy()), vectors], schema=schema)
