"""What first batches hold, one fault a column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from trainer.batch import SKIPPED_ROW, Batch
from trainer.guard.findings import Finding
from trainer.guard.inputs import FirstBatches
from trainer.records import TaskLabel
from trainer.schema import Feature, FeatureSpec, FeatureStatistics, FittedOp

ROWS = 512
DENSE = ("fine", "constant", "rare", "broken", "counts", "label_twice", "lists")
SPARSE = ("ids", "one_id", "missing", "unknown", "label_ids", "positives_only", "own_ids", "many")


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """Be the only rank."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def spec() -> FeatureSpec:
    def ids(name: str) -> Feature:
        return Feature(
            name=name,
            kind="sparse",
            column=name,
            table=name,
            num_embeddings=100,
            vocabulary=f"vocabulary/{name}",
        )

    features = [Feature(name=name, kind="dense", column=name) for name in DENSE[:-1]]
    features.append(
        Feature(
            name="lists", kind="dense", column="lists", ops=(FittedOp(name="numbers", params={"dim": 2}),)
        )
    )
    features += [ids(name) for name in SPARSE[:-1]]
    features.append(ids("many").model_copy(update={"is_list": True}))
    return FeatureSpec(features=tuple(features), label=FittedOp(name="label"))


STATISTICS = {"constant": FeatureStatistics(min=7.0, max=7.0), "rare": FeatureStatistics(min=0.0, max=1.0)}


def batch(seed: int, padding: int = 0) -> Batch:
    """Return rows with the faults that the names say, and rows of weight 0 that have every fault."""
    generator = torch.Generator().manual_seed(seed)
    labels_B = (torch.rand(ROWS, generator=generator) < 0.3).float()
    noise_B = torch.randn(ROWS, generator=generator)
    broken_B = noise_B.where(torch.arange(ROWS) != 5, torch.nan)
    dense = {
        "fine": noise_B,
        "constant": torch.full((ROWS,), 7.0),
        "rare": torch.zeros(ROWS),
        "broken": broken_B,
        "counts": noise_B.abs() * 2e4,
        "label_twice": 2 * labels_B + 0.1 * noise_B.clamp(-3, 3),
    }
    dense_BF = torch.stack([*dense.values(), noise_B, noise_B * 5000], dim=1)
    drawn = torch.randint(2, 100, (ROWS,), generator=generator)
    chance = torch.rand(ROWS, generator=generator)
    sparse = {
        "ids": drawn,
        "one_id": torch.full((ROWS,), 9),
        "missing": drawn.where(chance > 0.998, 0),
        "unknown": drawn.where(chance > 0.95, 1),
        "label_ids": labels_B.long() + 2,
        "positives_only": drawn.where(labels_B > 0, 0),
        "own_ids": drawn.where(chance > 0.95, 1),
    }
    lengths_B = torch.randint(0, 4, (ROWS,), generator=generator)
    many = torch.randint(2, 100, (int(lengths_B.sum()),), generator=generator)
    kjt = KeyedJaggedTensor.from_lengths_sync(
        list(SPARSE), torch.cat([*sparse.values(), many]), torch.cat([torch.ones(7 * ROWS).long(), lengths_B])
    )
    weights_B = (torch.arange(ROWS) < ROWS - padding).float()
    return Batch(dense_BF, kjt, labels_B[:, None], weights_B, torch.arange(ROWS))


def found(
    *batches: Batch, binary: Sequence[int] = (0,), target: str | None = None, tasks: Sequence[str] = ()
) -> dict[str, Finding]:
    features = [f.model_copy(update={"role": "target"}) if f.name == target else f for f in spec().features]
    labels = tuple(TaskLabel(name=name, params={}) for name in tasks)
    looked_at = FeatureSpec(features=tuple(features), label=spec().label, labels=labels)
    first = FirstBatches(looked_at, STATISTICS, frozenset({"own_ids"}), torch.device("cpu"), binary)
    for each in batches:
        first.add(each)
    return {finding.code: finding for finding in first.findings(8)}


def test_every_fault_is_told_with_its_feature_and_nothing_else() -> None:
    told = found(batch(0), batch(1))
    assert {code: finding.subjects for code, finding in told.items()} == {
        "feature_not_finite": ("broken",),
        "feature_constant": ("constant",),
        "feature_scale": ("counts", "lists[1]"),
        "feature_missing": ("missing",),
        "feature_out_of_vocabulary": ("unknown",),
        "feature_one_id": ("one_id",),
        "feature_is_label": ("label_twice", "label_ids", "positives_only"),
    }
    assert "broken (2 of 1,024 rows)" in told["feature_not_finite"].what
    assert "label_ids (label 0: 2; label 1: 3)" in told["feature_is_label"].what


def test_each_binary_label_of_several_is_compared_with_features_in_its_own_rows() -> None:
    one = batch(0)
    # The second label is 1 where the first number is above 0, but in rows that do not count for it.
    second_B = (one.dense_BF[:, 0] > 0).float()
    second_B = torch.where(torch.arange(ROWS) < 50, torch.nan, second_B)
    one.dense_BF[:50, 0] *= -1
    rating_B = 1 + 4 * one.labels_BT[:, 0]
    several = replace(
        one, labels_BT=torch.stack([torch.randint(0, 2, (ROWS,)).float(), second_B, rating_B], 1)
    )
    told = found(several, binary=(0, 1), tasks=("click", "like", "stars"))
    # All but the constant ones are copies of that number.
    assert told["feature_is_label"].subjects == ("fine", "broken", "lists[0]", "lists[1]")
    of_rows = [int((second_B == label).sum()) for label in (0, 1)]
    assert (
        f"the label of task 'like', of {of_rows[0]} rows of label 0 and {of_rows[1]} of label 1"
        in told["feature_is_label"].what
    )
    assert {*told} - {"feature_is_label"} == {*found(one)} - {"feature_is_label"}


def test_a_target_is_no_feature_whose_values_are_missing() -> None:
    assert "feature_missing" not in found(batch(0), batch(1), target="missing")


def test_rows_of_weight_0_do_not_count() -> None:
    clean = batch(2, padding=12)
    clean.dense_BF[-12:] = torch.nan
    clean.dense_BF[:-12, 3] = clean.dense_BF[:-12, 3].nan_to_num()
    assert "feature_not_finite" not in found(clean)
    nothing = batch(3, padding=ROWS)
    assert list(found(nothing)) == ["weights_zero"]
    nothing.rows_B[:] = SKIPPED_ROW
    assert found(nothing) == {}


def test_labels_that_are_not_binary_and_too_few_rows_of_one_are_not_compared_with_features() -> None:
    assert "feature_is_label" not in found(batch(4), binary=())
    few = batch(5)
    few.weights_B[(few.labels_BT[:, 0] > 0) & (torch.arange(ROWS) > 30)] = 0
    assert "feature_is_label" not in found(few)
