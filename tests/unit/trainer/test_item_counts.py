"""How often items are to be found in training rows, for the logQ correction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from jobs import Dataset, RunConfig
from sharding.hosts import RankContext
from tests.support.ranks import run_distributed
from tests.support.tiny import tiny_data
from trainer.assembly import build_task
from trainer.config.negatives import LOG_Q_FOLDER
from trainer.item_counts import load_item_counts
from trainer.modules.item_model import ItemModel

CONFIG: dict[str, Any] = {
    "name": "counts",
    "data": {"label": {"column": "y"}, "num_lanes": 4, "negatives": {"user": "s0", "item": "s1"}},
    "features": {"sparse": [{"columns": "s*"}]},
    "model": {
        "name": "mf",
        "user": "s0",
        "item": "s1",
        "objective": "sampled_softmax",
        "negatives": {"in_batch": True, "log_q": True},
    },
    "train": {"global_batch_size": 64},
}
ITEMS = 50


def with_vocabulary(folder: Path) -> tuple[Dataset, torch.Tensor, torch.Tensor]:
    """Return a data set whose items have a vocabulary, its counts, and those of the rows with label 1."""
    run = RunConfig.from_dict(CONFIG)
    data = tiny_data(folder, run, num_dense=0, num_lists=0)
    rows = ds.dataset(data.path / "train").to_table().to_pandas()
    every = torch.bincount(torch.tensor(rows["s1"].to_numpy()), minlength=ITEMS)
    positive = torch.bincount(torch.tensor(rows.loc[rows["label"] > 0.5, "s1"].to_numpy()), minlength=ITEMS)
    write_counts(folder / "vocabulary" / "s1", {"id": range(ITEMS), "count": every.tolist()})
    spec = data.manifest.spec
    features = [
        f.model_copy(update={"vocabulary": "vocabulary/s1"}) if f.name == "s1" else f for f in spec.features
    ]
    named = data.manifest.model_copy(update={"spec": spec.model_copy(update={"features": tuple(features)})})
    named.save(folder)
    return Dataset.open(folder), every, positive


def write_counts(folder: Path, columns: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), folder / "0.parquet")


def loaded(rank: int, world_size: int, path: str) -> tuple[Any, Any, int]:
    """Return popularity, counts of targets and the first item, as a rank has them."""
    context = RankContext(rank, world_size, rank, world_size, "here", torch.device("cpu"))
    data, run = Dataset.open(path), RunConfig.from_dict(CONFIG)
    task, _ = build_task(run, data.manifest)
    load_item_counts(task, run, data.manifest, data.path, context)
    model = task.model
    assert isinstance(model, ItemModel)
    sampler = model.sampler
    assert sampler.popularity_N is not None
    assert sampler.targets_N is not None
    return sampler.popularity_N.tolist(), sampler.targets_N.tolist(), sampler.first


@pytest.mark.parametrize("ranks", [1, 2])
def test_rows_with_label_0_are_no_targets(tmp_path: Path, ranks: int) -> None:
    data, every, positive = with_vocabulary(tmp_path / "data")
    assert 0 < positive.sum() < every.sum()
    for popularity, targets, first in run_distributed(loaded, ranks, str(data.path)):
        assert popularity == every[first:].clamp(min=1).tolist()
        assert targets == positive[first:].clamp(min=1).tolist()


def test_what_prepare_has_counted_is_taken_and_items_of_one_id_together(tmp_path: Path) -> None:
    data, every, _ = with_vocabulary(tmp_path / "data")
    write_counts(tmp_path / "data" / LOG_Q_FOLDER, {"id": [7, 9, 9], "count": [4, 2, 3]})
    popularity, targets, first = loaded(0, 1, str(data.path))
    assert popularity == every[first:].clamp(min=1).tolist()
    expected = torch.ones(ITEMS)
    expected[7], expected[9] = 4, 5
    assert targets == expected[first:].tolist()


def test_where_every_row_is_a_positive_the_vocabulary_tells(tmp_path: Path) -> None:
    data, every, _ = with_vocabulary(tmp_path / "data")
    train = data.manifest.split("train")
    splits = {**data.manifest.splits, "train": train.model_copy(update={"positives": train.rows})}
    data.manifest.model_copy(update={"splits": splits}).save(tmp_path / "data")
    _, targets, first = loaded(0, 1, str(data.path))
    assert targets == every[first:].clamp(min=1).tolist()
