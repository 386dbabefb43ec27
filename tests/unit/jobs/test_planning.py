"""What the verb `plan` adds to the planner: the run's own config, data set and dense layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import Cluster, Dataset, RunConfig, plan, train
from jobs.planning import check_optimizer_of
from sharding.dense_part import dense_layers
from sharding.errors import PlanError
from sharding.topology import Cluster as Shape
from tests.support.run_folders import losses
from trainer.assembly import build_task, scoring_config


def test_a_plan_for_ranks_that_training_refuses_says_so(run: RunConfig, data: Dataset) -> None:
    (warning,) = plan(run, data, Shape.parse("2x8xh100")).warnings
    assert "training on 16 ranks will be refused" in warning
    assert "data.num_lanes: 16" in warning


def test_a_plan_for_ranks_that_training_takes_has_no_such_warning(run: RunConfig, data: Dataset) -> None:
    assert not any("refused" in text for text in plan(run, data, Cluster.local(2, device="cpu")).warnings)


def test_planning_allocates_no_dense_layer_and_reckons_with_all_of_them(
    run: RunConfig, data: Dataset
) -> None:
    dense, _ = build_task(run, data.manifest)
    shapes, _ = build_task(run, data.manifest, "meta")
    assert all(parameter.device == torch.device("meta") for parameter in shapes.parameters())
    parameters = sum(parameter.numel() for parameter in dense_layers(dense))
    # Weights, gradients and the two moments of Adam in fp32.
    assert plan(run, data).memory[0].dense == 4 * 4 * parameters


def test_a_plan_for_ranks_that_no_group_of_hsdp_fits_says_so(run: RunConfig, data: Dataset) -> None:
    run = run.override("train={dense_parallel: hsdp, dense_shard_group_size: 3}")
    (warning,) = plan(run, data, Cluster(ranks_per_node=4)).warnings
    assert "a group that shares one copy of the dense part does not divide the ranks evenly" in warning
    assert "train.dense_shard_group_size: 2" in warning


def test_training_under_groups_that_do_not_fit_is_refused_before_any_launch(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    run = run.override("train.dense_parallel=hsdp")
    with pytest.raises(PlanError, match="has one rank"):
        train(run, data, Cluster(nodes=2, ranks_per_node=1, on="torchrun"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_declared_tables_are_planned_without_a_data_set() -> None:
    whatif = RunConfig.from_dict(
        {
            "name": "whatif",
            "model": {"name": "dlrm", "embedding_dim": 16},
            "train": {"global_batch_size": 32_768},
            "plan": {
                "num_dense": 13,
                "tables": {"user_*": {"count": 3, "num_embeddings": 10**9}, "item": {"num_embeddings": 100}},
            },
        }
    )
    made = plan(whatif, cluster=Shape.parse("2x8xh100"))
    assert [table.name for table in made.tables] == ["user_1", "user_2", "user_3", "item"]
    assert made.batch_size_per_rank == 32_768 // 16
    # 10**9 rows of 16 fp32 numbers, and one fp32 moment for each row.
    assert {t.weight_bytes + t.optimizer_bytes for t in made.tables[:3]} == {10**9 * (16 * 4 + 4)}


def whatif(tables: dict[str, Any], **changes: Any) -> RunConfig:
    base = {"name": "whatif", "model": {"name": "dlrm"}, "plan": {"tables": tables}}
    return RunConfig.from_dict({**base, **changes})


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ("3x8xh100", ["training on 24 ranks", "lanes must be a multiple", "use 16 ranks", "num_lanes: 48"]),
        ("5x8xh100", ["training on 40 ranks", "40 ranks share 32 lanes", "num_lanes: 40", "use 32 ranks"]),
    ],
)
def test_declared_tables_warn_of_ranks_that_training_refuses_too(cluster: str, words: list[str]) -> None:
    (warning,) = plan(whatif({"t": {"num_embeddings": 100}}), cluster=Shape.parse(cluster)).warnings
    for word in words:
        assert word in warning
    assert plan(whatif({"t": {"num_embeddings": 100}}), cluster=Shape.parse("4x8xh100")).warnings == ()


def test_declared_tables_warn_of_more_ranks_than_rows() -> None:
    run = whatif({}, plan={"tables": {"t": {"num_embeddings": 100}}, "rows_per_epoch": 7})
    (warning,) = plan(run, cluster=Shape.parse("1x8xh100")).warnings
    assert "7 rows for 8 ranks" in warning


GROUPS_OF_THREE = {"dense_parallel": "hsdp", "dense_shard_group_size": 3}


def test_declared_tables_warn_of_groups_that_do_not_fit_too() -> None:
    run = whatif({"t": {"num_embeddings": 100}}, train=GROUPS_OF_THREE)
    made = plan(run, cluster=Shape.parse("1x8xh100"))
    assert made.dense is not None
    assert made.dense.parallel == "ddp"
    assert any("does not divide the ranks evenly" in text for text in made.warnings)


def test_without_a_plan_the_groups_that_do_not_fit_come_first() -> None:
    huge = whatif({"t": {"num_embeddings": 10**12}}, train=GROUPS_OF_THREE)
    with pytest.raises(PlanError, match="does not divide the ranks evenly") as error:
        plan(huge, cluster=Shape.parse("1x8xh100"))
    assert "train.dense_shard_group_size: 2" in error.value.fixes
    (also,) = error.value.also
    assert " does not fit 8 ranks" in also
    # Reckoned with a copy on every rank, it is no proof.
    assert "verdict" not in error.value.as_json()


def test_a_plan_of_another_precision_between_ranks_is_refused(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    packed = run.override("train.table_communication={forward: bf16, backward: bf16}")
    layout = plan(packed, data)
    assert str(layout.communication) == "bf16 forward, bf16 backward"
    check_optimizer_of(packed, Cluster.local(), layout)
    with pytest.raises(PlanError, match="another precision of the exchange") as error:
        train(run, data, Cluster.local(), layout, out=tmp_path / "run")
    assert error.value.where == "train.table_communication"
    assert not (tmp_path / "run").exists()


def test_scores_do_not_depend_on_the_precision_between_ranks(run: RunConfig) -> None:
    packed = run.override("train.table_communication={forward: int8, backward: fp16}")
    assert scoring_config(packed, "cpu") == scoring_config(run, "cpu")
    rounded = run.override("train.table_output_dtype=fp16")
    assert scoring_config(rounded, "cpu") == scoring_config(run, "cpu")


def test_a_run_trains_with_the_output_that_its_config_names(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    exact, rounded = (
        train(config.override("train.log_every_steps=1"), data, out=tmp_path / name, show_progress=False)
        for name, config in (("exact", run), ("rounded", run.override("train.table_output_dtype=fp16")))
    )
    assert losses(rounded.path) == pytest.approx(losses(exact.path), rel=1e-3)
    assert losses(rounded.path) != losses(exact.path)
    with pytest.raises(PlanError, match="CPU kernels look up no such vectors"):
        train(
            run.override("train.table_output_dtype=bf16"),
            data,
            Cluster.local(device="cpu"),
            out=tmp_path / "x",
        )


def test_more_nodes_that_would_help_are_as_many_as_training_takes() -> None:
    # 961 GiB need 15 ranks of 68 GiB: two hosts of 8, or four where training takes no 16.
    tables = {"t": {"num_embeddings": 2_000_000_000, "embedding_dim": 128}}
    for lanes, words in [(32, "--cluster 2x8xh100 (16 ranks"), (24, "--cluster 3x8xh100 (24 ranks")]:
        batch = 24 * 64 if lanes == 24 else 4096
        run = whatif(tables, data={"num_lanes": lanes}, train={"global_batch_size": batch})
        with pytest.raises(PlanError) as error:
            plan(run, cluster=Shape.parse("1x8xh100"))
        assert error.value.fixes[0].startswith(words), error.value.fixes
    run = whatif(tables, data={"num_lanes": 8}, train={"global_batch_size": 4096})
    with pytest.raises(PlanError) as error:
        plan(run, cluster=Shape.parse("1x8xh100"))
    assert "training takes so many ranks with another data.num_lanes" in error.value.fixes[0]
