"""Writes splits as Parquet parts in a fixed, shuffled order with row groups of a fixed size."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
from pyspark.sql import functions as F

from jobs.preparation.columns import HASH, ORDER, SPLIT, column
from trainer.schema import SPLITS, PartFile

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.readwriter import DataFrameWriter

_FILE = "__file"
_RAW = "_rows"


def write_splits(
    rows: DataFrame,
    columns: Sequence[Column],
    counts: Mapping[str, int],
    dataset: Path,
    *,
    rows_per_file: int,
    rows_per_row_group: int,
) -> None:
    """Write `train/`, `valid/` and `test/`, rows ordered by their seeded hash.

    A row's hash says which part it belongs to and where, so the parts are the same however Spark divided the
    work; their lengths differ a little from each other.

    Args:
        rows: with `SPLIT`, `HASH`, `ORDER`.
        columns: what to write.
        counts: rows of each split.
        dataset: folder of the data set under construction.
        rows_per_file: aimed at.
        rows_per_row_group: of every row group but the last of each part.
    """
    files = {split: math.ceil(counts.get(split, 0) / rows_per_file) for split in SPLITS}
    of_split = F.create_map(*[F.lit(x) for split, number in files.items() for x in (split, max(1, number))])
    # The signed hash as a number in [0, 1], rising with it, cut into as many ranges as there are files.
    share = F.col(ORDER).cast("double") / F.lit(2.0**64) + 0.5
    number = of_split[F.col(SPLIT)]
    file = F.least(F.floor(share * number), number - 1).cast("int")
    keys = [SPLIT, _FILE, ORDER, HASH]
    placed = rows.select(F.col(SPLIT), file.alias(_FILE), F.col(ORDER), F.col(HASH), *columns)
    placed = placed.repartition(max(1, sum(files.values())), SPLIT, _FILE).sortWithinPartitions(*keys)
    raw = dataset / _RAW
    _parquet(placed.drop(ORDER, HASH), rows_per_row_group).partitionBy(SPLIT, _FILE).parquet(str(raw))
    for split in SPLITS:
        folder = dataset / split
        folder.mkdir()
        for part in range(files[split]):
            written = sorted((raw / f"{SPLIT}={split}" / f"{_FILE}={part}").glob("*.parquet"))
            # A task that holds one file's rows writes them as one part.
            assert len(written) <= 1, written
            for path in written:
                path.replace(folder / f"part-{len(list(folder.iterdir())):05d}.parquet")
    shutil.rmtree(raw)


def write_in_order(
    rows: DataFrame, folder: Path, *, order_by: Sequence[str], rows_per_row_group: int, partitions: int
) -> None:
    """Write rows as parts of one folder, in the order of some of their columns, or as they come.

    Args:
        rows: what to write.
        folder: to be made.
        order_by: columns to sort by; none keeps the order of the rows.
        rows_per_row_group: of every row group but the last of each part.
        partitions: parts when sorting.
    """
    if order_by:
        keys = [column(name) for name in order_by]
        rows = rows.repartitionByRange(partitions, *keys).sortWithinPartitions(*keys)
    raw = folder.with_name(_RAW)
    _parquet(rows, rows_per_row_group).parquet(str(raw))
    folder.mkdir()
    # Spark numbers the parts by partition, and partitions are in order.
    written = sorted(raw.glob("part-*.parquet"))
    filled = [path for path in written if pq.read_metadata(path).num_rows > 0]
    for number, path in enumerate(filled):
        path.replace(folder / f"part-{number:05d}.parquet")
    shutil.rmtree(raw)


def part_files(dataset: Path, split: str) -> tuple[PartFile, ...]:
    """Return the parts of a split with their row groups, as their footers say."""
    paths = sorted((dataset / split).glob("part-*.parquet"))
    with ThreadPoolExecutor(8) as pool:
        return tuple(pool.map(lambda path: _part_file(path, dataset), paths))


def _part_file(path: Path, dataset: Path) -> PartFile:
    footer = pq.read_metadata(path)
    groups = tuple(footer.row_group(number).num_rows for number in range(footer.num_row_groups))
    return PartFile(
        path=path.relative_to(dataset).as_posix(),
        rows=footer.num_rows,
        row_groups=groups,
        bytes=path.stat().st_size,
    )


def _parquet(rows: DataFrame, rows_per_row_group: int) -> DataFrameWriter:
    # parquet-java has no setting for rows per row group. It looks at the size every so many rows, and closes
    # the group when it is over the limit: with a limit of one byte, looking every n rows gives groups of n.
    return (
        rows.write.option("compression", "zstd")
        .option("parquet.block.size", 1)
        .option("parquet.page.size.row.check.min", rows_per_row_group)
        .option("parquet.page.size.row.check.max", rows_per_row_group)
    )
