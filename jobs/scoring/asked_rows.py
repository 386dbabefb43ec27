"""Rows of users to find items for: those of a split, or made of raw rows up to now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.results import Dataset
from jobs.scoring.item_run import ItemRun
from trainer.config import RecommendConfig, RunConfig
from trainer.errors import ConfigError, DataError
from trainer.schema import KEEP_PREFIX, PartFile, Split
from trainer.storage import open_input

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.scoring.candidates import Events
    from trainer.data.kept import KeptColumns


def user_row_section(run: RunConfig) -> RecommendConfig:
    """Return the `recommend` section: of rows of users it may be left out.

    It says whether seen items are left out: where it does not itself, they are unless they are ranked too.

    Raises:
        ConfigError: it names another user or item than `data.user_rows`.
    """
    rows = run.data.user_rows
    assert rows is not None
    found = run.recommend or RecommendConfig(user=rows.by, item=rows.targets)
    for key, own, name in (("user", found.user, rows.by), ("item", found.item, rows.targets)):
        if own != name:
            raise ConfigError(
                "this is not the column of the rows of users",
                where=f"recommend.{key}",
                got=own,
                allowed=[name],
                fixes=[f"recommend.{key}: {name}"],
            )
    if found.exclude_seen is None:
        return found.model_copy(update={"exclude_seen": not rows.ranks_seen})
    return found


def asked_rows(
    run: ItemRun, columns: RecommendConfig, split: str, users: Sequence[Any] | None, place: Path
) -> Dataset:
    """Return the data set of the run, or one of the rows of some users of a split.

    Args:
        run: whose data set it is.
        columns: name the user.
        split: with rows of users.
        users: ids; None for all.
        place: folder to make, for the rows of some.

    Raises:
        DataError: the split has no rows of users, the data set does not keep the users' ids, or one of the
            users has no row.
    """
    dataset = Dataset(run.folder.dataset(), run.manifest)
    splits = run.folder.config().data.user_rows
    assert splits is not None
    if split not in splits.splits:
        raise DataError(
            "the rows of this split are events, not users",
            where=f"--split {split}",
            allowed=list(splits.splits),
            fixes=[f"--split {name}" for name in splits.splits],
        )
    run.manifest.split(split)
    kept = kept_users(run, dataset, columns, split)
    if users is None:
        return dataset
    names = pa.array([str(user) for user in users], pa.string())
    found: list[NDArray[np.int64]] = []
    seen: set[str] = set()
    groups = range(len(kept.starts) - 1)
    for start, values in zip(kept.starts, kept.read(columns.user, groups), strict=False):
        texts = values.cast(pa.string())
        mine = np.flatnonzero(pc.is_in(texts, names).to_numpy(zero_copy_only=False))
        seen.update(texts.take(pa.array(mine)).to_pylist())
        found.append(mine + start)
    missing = [str(user) for user in users if str(user) not in seen]
    if missing:
        raise DataError(
            f"users without a row in {split}",
            where=f"{columns.user} of {dataset.path}",
            got=", ".join(missing[:10]),
            fixes=["--split with another split", "--input with raw rows that have them"],
        )
    return _with_rows(dataset, split, np.concatenate(found), place)


def rows_of_now(met: Events, run: ItemRun, users: DataFrame, place: Path) -> Dataset:
    """Return a data set of one split, `test`: rows of users that list all their positive events up to now.

    Args:
        met: the raw rows.
        run: whose features they get.
        users: one column.
        place: folder to make.
    """
    from pyspark.sql import functions as F

    from jobs.preparation import columns as C
    from jobs.preparation.cleaning import cleaned_events
    from jobs.preparation.pipeline import write_inputs
    from jobs.preparation.transform import apply_spec
    from jobs.preparation.user_rows import with_user_rows
    from jobs.scoring.vocabulary_copies import with_vocabularies

    config = met.run.data.user_rows
    assert config is not None
    events = cleaned_events(met.run, met.spark, met.rows).join(users, config.by, "left_semi")
    # As training events all of them are listed, and none is to be found.
    events = events.withColumn(C.SPLIT, F.lit("train"))
    rows = with_user_rows(events, met.run, config.model_copy(update={"splits": ["train"]}))
    rows = rows.where(F.col(C.SPLIT) == "train").drop(C.SPLIT, C.TARGETS)
    spec = run.manifest.spec
    lists = {column: name for name, column in config.lists.items()}
    for feature in (f for f in spec.features if f.derived is not None and f.derived.name == "history"):
        assert feature.derived is not None
        rows = rows.withColumn(feature.name, C.column(lists[feature.derived.params["item"]]))
    files = run.folder.dataset_files()
    vocabularies = with_vocabularies(files, spec, place / "vocabularies")
    inputs = apply_spec(rows, spec, vocabularies, met.spark, keep=[config.by])
    manifest = write_inputs(
        inputs, spec, place / "rows", met.spark, name="users", vectors_in=files,
        order_by=[KEEP_PREFIX + config.by],
    )  # fmt: skip
    return Dataset(place / "rows", manifest)


def kept_users(run: ItemRun, dataset: Dataset, columns: RecommendConfig, split: str) -> KeptColumns:
    """Return the kept columns of a split, the users' ids among them.

    Raises:
        DataError: the data set does not keep them.
    """
    from trainer.assembly import read_policy
    from trainer.data.kept import KeptColumns

    kept = KeptColumns(dataset.path, dataset.manifest, split, read_policy(run.folder.config()))
    kept.require(columns.user, "recommend.user")
    return kept


def _with_rows(dataset: Dataset, split: str, rows_R: NDArray[np.int64], place: Path) -> Dataset:
    """Write some rows of a split, in their order, as a data set of their own."""
    manifest, parts, begin = dataset.manifest, [], 0
    folder = manifest.folder_in(dataset.path)
    for file in manifest.split(split).files:
        inside = rows_R[(rows_R >= begin) & (rows_R < begin + file.rows)] - begin
        begin += file.rows
        if len(inside):
            with open_input(folder / file.path) as stream:
                parts.append(pq.read_table(stream).take(pa.array(inside)))
    path = place / split / "part-00000.parquet"
    path.parent.mkdir(parents=True)
    table = pa.concat_tables(parts)
    pq.write_table(table, path, row_group_size=max(1, len(table)))
    size = path.stat().st_size
    part = PartFile(path=f"{split}/{path.name}", rows=len(table), row_groups=(len(table),), bytes=size)
    changes = {
        "splits": {split: Split(rows=len(table), positives=0, files=(part,))},
        "vectors_in": manifest.vectors_in or str(folder),
        "files_in": None,
    }
    found = manifest.model_copy(update=changes)
    found.save(place)
    return Dataset(place, found)
