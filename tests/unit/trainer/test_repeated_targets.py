"""Items that are met again and again (`drop_seen: false`): rows are to find what they list, by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.unit.trainer.models.examples import NUM_EMBEDDINGS, example_model
from tests.unit.trainer.models.item_examples import ITEMS, event_inputs
from trainer.baselines.fitted import Popularity
from trainer.baselines.histories import histories_of
from trainer.baselines.measuring import measured
from trainer.baselines.roles import Roles
from trainer.batch import Batch
from trainer.config import RunConfig
from trainer.measuring import SplitMeasure
from trainer.schema import Feature, FeatureSpec, FittedOp, Manifest
from trainer.tasks import TrainingTask

CPU = torch.device("cpu")
TARGET = Feature(
    name="targets", kind="sparse", column="targets", is_list=True, table="item", role="target",
    num_embeddings=NUM_EMBEDDINGS, ops=(FittedOp(name="vocabulary"),),
)  # fmt: skip


def run_of(metrics: dict[str, Any], **user_rows: Any) -> RunConfig:
    rows = {"by": "user", "order_by": "time", "lists": {"seen": "item"}, "targets": "item", **user_rows}
    split: dict[str, Any] = {"method": "leave_last", "leave_last": {"user": "user", "time": "time"}}
    if "hold_out" in user_rows:
        split = {"method": "random", "by": "user"}
    return RunConfig.from_dict(
        {
            "name": "basket",
            "data": {
                "source": {"path": "baskets.parquet"},
                "label": {"implicit": True},
                "split": split,
                "user_rows": rows,
            },
            "features": {"sequence": [{"columns": "seen", "ops": ["vocabulary"], "pooling": "none"}]},
            "model": {"name": "sasrec"},
            "metrics": metrics,
        }
    )


def measure_of(run: RunConfig) -> SplitMeasure:
    manifest = Manifest(
        name="basket", created="", seed=1, config_hash="", splits={}, statistics={},
        preparation=run.preparation(),
        spec=FeatureSpec(features=(TARGET,), label=FittedOp(name="label")),
    )  # fmt: skip
    return SplitMeasure.open(run, manifest, Path(), "test")  # type: ignore[arg-type]


def batch_of(*rows: dict[str, list[int]]) -> Batch:
    names = ("user", "item", "seen", "targets")
    lists = [row.get(name, [0]) for name in names for row in rows]
    return Batch(
        dense_BF=torch.zeros(len(rows), 0),
        sparse=KeyedJaggedTensor.from_lengths_sync(
            list(names),
            torch.tensor([one for ids in lists for one in ids]),
            torch.tensor([len(ids) for ids in lists]),
        ),
        labels_BT=torch.ones(len(rows), 1),
        weights_B=torch.ones(len(rows)),
        rows_B=torch.arange(len(rows)),
    )


# The score falls from item to item: 2 is the best, then 3, 4 and 5.
BATCH = batch_of({"seen": [2, 4], "targets": [2]}, {"seen": [2, 3], "targets": [5]})
# Row 0 finds item 2 first, or last of 18; row 1 finds item 5 fourth, or second.
AGAIN = {"hr@1": 0.5, "hr@2": 0.5, "hr@4": 1.0, "mrr@4": (1 + 1 / 4) / 2}
ONCE = {"hr@1": 0.0, "hr@2": 0.5, "hr@4": 0.5, "mrr@4": (0 + 1 / 2) / 2}


def by_model(measure: SplitMeasure) -> dict[str, float]:
    model = example_model("mf", event_inputs())
    for parameter in model.parameters():
        parameter.data.zero_()
    table = model.lookup.state_dict()["embedding_collection.embeddings.item.weight"]
    table[:, 8] = -torch.arange(NUM_EMBEDDINGS)  # the bias
    return measure.of(TrainingTask(model), [BATCH], CPU).metrics


def by_popularity(measure: SplitMeasure) -> dict[str, float]:
    rows: Any = SimpleNamespace(
        roles=Roles(TARGET, ("seen",)),
        of_lists=lambda batch: histories_of([], batch.size, ITEMS),
        batches=lambda split: [BATCH],
    )
    popularity = Popularity(np.arange(ITEMS, 0, -1))
    trained = histories_of([], 0, ITEMS)
    return measured(measure, "test", popularity, rows, trained, predicts=False).metrics


@pytest.mark.parametrize("by", [by_model, by_popularity])
@pytest.mark.parametrize(
    ("user_rows", "expected"),
    [
        ({"drop_seen": False}, AGAIN),
        ({}, ONCE),
        # Of the users' items these are held out, so that none of them is listed.
        ({"drop_seen": False, "hold_out": {}}, ONCE),
    ],
)
def test_seen_targets_are_found_where_the_data_set_lets_them_be(
    by: Any, user_rows: dict[str, Any], expected: dict[str, float]
) -> None:
    found = by(measure_of(run_of({"at": [1, 2, 4], "names": ["hr", "mrr"]}, **user_rows)))
    assert {name: found[name] for name in expected} == pytest.approx(expected)
