"""`index`: the vectors of a run's items in a folder, with a FAISS index over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.cluster import Cluster
from jobs.rank_requests import chosen_checkpoint, job_folder, run_request
from jobs.results import Dataset, TrainResult
from jobs.scoring.faiss_kinds import KindOfIndex, faiss, write_index
from jobs.scoring.index_search import FAISS_FILE, INDEX_FILE, ITEMS_FOLDER, IndexInfo, ItemIndex
from jobs.scoring.item_run import ItemRun
from trainer.run_folder import RunFolder, write_json

# Vectors that are read at once.
_VECTORS_AT_ONCE = 1 << 16


def index(
    result: TrainResult | str | Path,
    out: str | Path,
    kind: str = "flat",
    *,
    parameters: Mapping[str, int] | None = None,
    cluster: Cluster | None = None,
    checkpoint: str | None = None,
) -> ItemIndex:
    """Write the vectors of a run's items and a FAISS index over them, by inner product.

    Each rank writes the vectors of its share of the items. An earlier index in the folder stays valid until
    the new one is complete.

    Args:
        result: run or run folder, of a model whose score is a dot product of query and item.
        out: folder of the index.
        kind: `flat` (exact), `ivf` or `hnsw`.
        parameters: of the kind, by FAISS's names: `nlist` and `nprobe`; `M`, `efConstruction`, `efSearch`.
            Defaults follow the number of items.
        cluster: ranks to use; default one in this process.
        checkpoint: name of a checkpoint; default the run's choice (best, else last).

    Raises:
        EnvironmentFault: FAISS is not installed.
        ConfigError: the model's scores are no dot products, or its items are numbered by a hash.
        CheckpointError: no complete checkpoint has that name.
        DataError: the folder holds something else than an index.
        UserError: there is no such kind or parameter.
    """
    from jobs.preparation.commit import FolderKind, output_folder, staged_folder
    from trainer.item_jobs import ITEM_VECTORS

    faiss()  # before ranks have worked for it
    folder = RunFolder(result.path if isinstance(result, TrainResult) else Path(result))
    checkpoint = chosen_checkpoint(folder, checkpoint)
    run = ItemRun.open(folder)
    run.require_products()
    raw, target = run.raw_items(), output_folder(out)
    chosen = KindOfIndex.of(kind, len(raw), parameters)
    with (
        staged_folder(target, FolderKind(INDEX_FILE, "an index of items")) as staging,
        job_folder(folder, "index") as place,
    ):
        run_request(
            place,
            "trainer.item_jobs:item_vectors_rank",
            folder,
            Dataset(folder.dataset(), run.manifest),
            _smallest_split(run),
            cluster or Cluster.local(),
            checkpoint=checkpoint,
        )
        count, width = _write_items(
            place / ITEM_VECTORS, staging / ITEMS_FOLDER, raw, run.model.sampler.first
        )
        sample = _sample(staging, chosen.sample_size(count), count)
        write_index(chosen.build(_vectors(staging), sample), staging / FAISS_FILE)
        info = IndexInfo(
            str(folder.path.absolute()), checkpoint, run.manifest.spec.hash, run.section.name,
            run.item_column(), chosen.kind, chosen.parameters, "inner_product", width, count, run.temperature,
        )  # fmt: skip
        write_json(staging / INDEX_FILE, asdict(info))
    return ItemIndex(target, info)


def _smallest_split(run: ItemRun) -> str:
    """Return a split with rows: the vectors need a batch, whichever it is."""
    filled = {name: split.rows for name, split in run.manifest.splits.items() if split.rows}
    return min(filled, key=lambda name: filled[name])


def _write_items(vectors: Path, items: Path, raw: pa.Array, first: int) -> tuple[int, int]:
    """Write the vectors with raw ids in the order of the ids; return how many there are, and their width."""
    items.mkdir()
    count = width = 0
    for part in sorted(vectors.glob("part-*.parquet")):
        source = pq.ParquetFile(part)
        kind = source.schema_arrow.field("vector").type
        schema = pa.schema({"item": raw.type, "id": pa.int64(), "vector": kind})
        with pq.ParquetWriter(items / part.name, schema) as writer:
            for batch in source.iter_batches(_VECTORS_AT_ONCE):
                ids_N = batch["id"].to_numpy()
                assert not len(ids_N) or ids_N[0] == first + count
                values = [raw.take(pa.array(ids_N - first)), batch["id"], batch["vector"]]
                writer.write_table(pa.table(values, schema=schema))
                count, width = count + len(ids_N), kind.list_size
    return count, width


def _vectors(folder: Path) -> Iterator[NDArray[np.float32]]:
    """Yield the vectors of an index in their order, some at a time."""
    for part in sorted((folder / ITEMS_FOLDER).glob("part-*.parquet")):
        for batch in pq.ParquetFile(part).iter_batches(_VECTORS_AT_ONCE, columns=["vector"]):
            column = batch["vector"]
            yield column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def _sample(folder: Path, size: int, count: int) -> NDArray[np.float32]:
    """Return so many of the vectors, evenly spread over their order, which is that of their popularity."""
    wanted = np.unique(np.linspace(0, count - 1, size).round().astype(np.int64))
    parts, begin = [], 0
    for block in _vectors(folder):
        inside = wanted[(wanted >= begin) & (wanted < begin + len(block))] - begin
        parts.append(block[inside])
        begin += len(block)
    return np.concatenate(parts)
