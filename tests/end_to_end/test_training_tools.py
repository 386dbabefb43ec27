"""The tools of training, by `train` in one process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs import Cluster, Dataset, RunConfig, evaluate, plan, train
from sharding.weights import uniform_block
from tests.support.run_folders import losses
from trainer.errors import UserError
from trainer.stored_tensors import StoredTensors


def test_what_is_frozen_stays(run: RunConfig, data: Dataset, tmp_path: Path) -> None:
    # The bias that is left moves every logit alike, which no AUC shows.
    layers = "['dense_arch.*', 'over_arch.hidden.*', 'over_arch.logits.weight']"
    tables = "tables={'*': {learning_rate: 0}}"

    def auc(steps: int, *settings: str) -> float:
        changed = run.override(f"train.max_steps={steps}", *settings)
        folder = tmp_path / f"{steps}_{len(settings)}"
        return float(train(changed, data, out=folder, show_progress=False).metrics["auc"])

    frozen = f"train.frozen={layers}"
    assert auc(1, frozen, tables) == auc(6, frozen, tables)
    assert auc(6, frozen, tables) != auc(6, tables)
    assert auc(6, tables) != auc(6)


def test_rates_fall_where_a_metric_stands_still_and_stay_so_when_a_run_goes_on(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    changed = run.override(
        "train.log_every_steps=1",
        "train.evaluate_every_steps=2",
        "train.plateau={metric: auc, min_delta: 1.0, factor: 0.5}",
        "train.early_stopping=null",
    )
    for steps in (6, 8):
        further = changed.override(f"train.max_steps={steps}")
        train(further, data, out=tmp_path / "run", resume=True, show_progress=False)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    rates = [line["learning_rate"] for line in lines if line["kind"] == "train"]
    first = changed.train.dense_optimizer.learning_rate
    # The first evaluation is a gain, the others are not.
    assert rates == pytest.approx([first] * 4 + [first / 2] * 2 + [first / 4] * 2)


def test_adam_of_tables_counts_steps_whatever_is_evaluated_and_when_a_run_goes_on(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    changed = run.override(
        "train.embedding_optimizer={name: adam, learning_rate: 0.01}",
        "train.log_every_steps=1",
        "train.evaluate_every_steps=2",
        "train.early_stopping=null",
    )
    assert {table.sharding_type for table in plan(changed, data).tables} == {"data_parallel"}
    for folder, lengths, settings in (
        ("whole", (8,), ()),
        ("broken", (3, 8), ()),
        ("not_evaluated", (8,), ("train.evaluate_every_steps=100",)),
    ):
        for steps in lengths:
            one = changed.override(f"train.max_steps={steps}", *settings)
            train(one, data, out=tmp_path / folder, resume=True, show_progress=False)
    whole = losses(tmp_path / "whole")
    assert len(whole) == 8
    assert losses(tmp_path / "broken") == losses(tmp_path / "not_evaluated") == whole


@pytest.mark.parametrize("ranks", [1, 2])
def test_parts_of_a_batch_add_up_to_the_step_of_the_whole(
    run: RunConfig, data: Dataset, tmp_path: Path, ranks: int
) -> None:
    # Fused optimizers learn from each part, those of data-parallel tables from the sum.
    run = run.override("tables={'*': {sharding_types: [data_parallel]}}", "train.log_every_steps=1")
    on = "process" if ranks == 1 else "torchrun"
    for parts in (1, 4):
        changed, cluster = run.override(f"train.micro_batches={parts}"), Cluster(ranks_per_node=ranks, on=on)
        train(changed, data, cluster, out=tmp_path / str(parts), show_progress=False)
    whole = losses(tmp_path / "1")
    assert losses(tmp_path / "4") == pytest.approx(whole, abs=1e-5)
    assert whole[-1] != pytest.approx(whole[0], abs=1e-3)


def test_parts_that_do_not_divide_the_rows_of_a_rank_are_refused(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="micro-batches"):
        train(run.override("train.micro_batches=7"), data, out=tmp_path / "run", show_progress=False)


def test_units_of_the_dense_part_stay_within_the_bound_but_for_frozen_ones(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    run = run.override(
        "train.dense_optimizer.max_norm=0.2", "train.frozen=['dense_arch.*']", "train.max_steps=4"
    )
    result = train(run, data, out=tmp_path / "run", show_progress=False)
    norms = {
        name.removeprefix("model."): weight.norm(dim=1).max().item()
        for name, weight in checkpoint(result.path, 4).items()
        if name.endswith(".weight") and weight.ndim == 2 and name.startswith("model.")
    }
    bounded = [norm for name, norm in norms.items() if "over_arch" in name]
    frozen = [norm for name, norm in norms.items() if "dense_arch" in name]
    assert len(bounded) > 1
    assert bounded == pytest.approx([0.2] * len(bounded), abs=1e-6)
    assert min(frozen) > 0.25


def checkpoint(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint by name."""
    stored = StoredTensors(folder / "checkpoints" / f"step_{step:08d}")
    return {name: stored.read(name) for name in stored.places}


def test_evaluation_takes_the_average_and_a_run_goes_on_with_both(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    run = run.override(
        "train.ema={decay: 0.6}",
        "train.dense_optimizer={name: lamb, learning_rate: 0.1}",
        "train.checkpoint_every_steps=1",
        "train.keep_checkpoints=20",
        "train.log_every_steps=1",
    )
    unbroken = train(run.override("train.max_steps=8"), data, out=tmp_path / "unbroken", show_progress=False)
    for steps in (5, 8):
        further = run.override(f"train.max_steps={steps}")
        resumed = train(further, data, out=tmp_path / "resumed", show_progress=False)
    saved = [checkpoint(unbroken.path, step) for step in range(1, 9)]
    for name in [name.removeprefix("average.") for name in saved[0] if name.startswith("average.")]:
        expected = saved[0][f"average.{name}"].double()
        for step, state in enumerate(saved[1:], start=1):
            kept = min(0.6, (1 + step) / (10 + step))
            expected = kept * expected + (1 - kept) * state[f"model.{name}"]
        torch.testing.assert_close(saved[-1][f"average.{name}"].double(), expected, atol=1e-6, rtol=0)
    last = checkpoint(resumed.path, 8)
    assert all(torch.equal(value, last[name]) for name, value in saved[-1].items())
    without = train(
        run.override("train.max_steps=8", "train.ema=null"), data, out=tmp_path / "raw", show_progress=False
    )
    assert losses(without.path) == losses(unbroken.path) == losses(resumed.path)
    assert without.metrics["auc"] != unbroken.metrics["auc"] == resumed.metrics["auc"]
    assert evaluate(unbroken, split="valid").metrics == unbroken.metrics


def with_vectors(run: RunConfig, folder: Path) -> tuple[RunConfig, torch.Tensor]:
    """Return a run with two tables from vectors, one of them frozen, and the weights that this one has."""
    vectors = np.random.default_rng(0).standard_normal((45, 8)).astype(np.float32)
    # Ids 3 to 47 of the table's 1 to 49, as text and out of order.
    ids = [str(3 + 7 * number % 45) for number in range(45)]
    pq.write_table(
        pa.table({"movie": ids, "vector": list(vectors)}), folder / "vectors.parquet", row_group_size=10
    )
    from_file = "{path: vectors.parquet, id_column: movie, vector_column: vector, min_found_share: 0.9}"
    run = run.override(
        f"data.root={folder}",
        f"tables={{s0: {{sharding_types: [row_wise], learning_rate: 0, pretrained: {from_file}}}, "
        f"s1: {{sharding_types: [column_wise], min_partition: 4, pretrained: {from_file}}}}}",
        "train.embedding_optimizer.name=adagrad",
        "train.log_every_steps=1",
    )
    expected = uniform_block(run.seed, "s0", range(50), range(8), table_shape=(50, 8))
    expected[torch.tensor([int(each) for each in ids])] = torch.from_numpy(vectors)
    return run, expected


def test_tables_start_from_vectors_and_a_frozen_one_keeps_them(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    run, expected = with_vectors(run, tmp_path)
    train(run.override("train.max_steps=4"), data, out=tmp_path / "run", show_progress=False)
    # Whoever goes on from a checkpoint has no need of the file.
    (tmp_path / "vectors.parquet").unlink()
    result = train(run, data, out=tmp_path / "run", show_progress=False)
    (frozen,) = (v for n, v in checkpoint(result.path, 12).items() if n.startswith("model.") and ".s0." in n)
    assert torch.equal(frozen, expected)
    lines = map(json.loads, (result.path / "metrics.jsonl").read_text().splitlines())
    told = {line["table"]: line for line in lines if line["kind"] == "pretrained"}
    assert told.keys() == {"s0", "s1"}
    for line in told.values():
        assert (line["ids"], line["found"], line["unknown"]) == (49, 45, 0)


@pytest.mark.slow
def test_all_tools_together_train_alike_on_two_ranks(run: RunConfig, data: Dataset, tmp_path: Path) -> None:
    run = with_vectors(run, tmp_path)[0].override(
        "train.embedding_l2=0.1",
        "train.ema={decay: 0.9}",
        "train.dense_parallel=fsdp",
        "train.evaluate_every_steps=5",
    )
    clusters = (Cluster(ranks_per_node=1, on="process"), Cluster(ranks_per_node=2, on="torchrun"))
    one, two = (
        train(run, data, cluster, out=tmp_path / cluster.on, show_progress=False) for cluster in clusters
    )
    assert losses(two.path) == pytest.approx(losses(one.path), abs=1e-5)
    assert two.metrics["log_loss"] == pytest.approx(one.metrics["log_loss"], abs=1e-5)
    there = checkpoint(two.path, 12)
    for name, value in checkpoint(one.path, 12).items():
        torch.testing.assert_close(there[name], value, atol=1e-5, rtol=0)


def test_a_file_of_vectors_that_does_not_fit_is_refused(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    np.save(tmp_path / "narrow.npy", np.zeros((50, 4)))
    twice = {"id": ["1", "2", "01", "2"], "vector": [[0.0] * 8] * 4}
    pq.write_table(pa.table(twice), tmp_path / "twice.parquet")
    others = {"id": ["a", "b"], "vector": [[0.0] * 8] * 2}
    pq.write_table(pa.table(others), tmp_path / "others.parquet")
    columns = ", id_column: id, vector_column: vector"
    cases = {
        f"path: {tmp_path}/narrow.npy": "another length",
        f"path: {tmp_path}/twice.parquet{columns}": "comes twice",
        f"path: {tmp_path}/others.parquet{columns}": "too few ids",
    }
    for number, (settings, message) in enumerate(cases.items()):
        asked = run.override(f"tables={{s0: {{pretrained: {{{settings}}}}}}}")
        with pytest.raises(UserError, match=message) as error:
            train(asked, data, out=tmp_path / str(number), show_progress=False)
        assert error.value.where.startswith("tables.s0.pretrained")
    # The beginning of the file is looked at before anything is launched.
    assert [path.exists() for path in (tmp_path / "0", tmp_path / "1")] == [False, True]
