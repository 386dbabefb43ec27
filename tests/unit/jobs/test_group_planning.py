"""Groups of ranks with a copy of the tables each, as the verbs take them from the config."""

from __future__ import annotations

from pathlib import Path

import pytest

import jobs
from jobs import Cluster, Dataset, RunConfig, plan, train
from jobs.given_plan import reckoning_warnings
from jobs.planning import Planning
from sharding.errors import PlanError
from sharding.topology import Cluster as Shape
from sharding.verdicts import CannotFitError
from trainer.assembly import scoring_config

CONFIGS = Path(jobs.__file__).parent / "configs"
TWO = "train.table_shard_group_size=2"


def test_the_config_says_how_many_ranks_share_a_copy(run: RunConfig, data: Dataset) -> None:
    made = plan(run.override(TWO, "train.table_sync_every_steps=4"), data, Cluster(ranks_per_node=4))
    assert (made.groups.count, made.groups.shard_group_size, made.groups.sync_every_steps) == (2, 2, 4)
    assert {shard.rank for table in made.tables for shard in table.shards} <= {0, 1}
    assert plan(run, data, Cluster(ranks_per_node=4)).groups.count == 1


def test_groups_that_do_not_fit_are_refused_before_any_launch(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    odd, four = run.override("train.table_shard_group_size=3"), Cluster(ranks_per_node=4, on="local")
    for refused in (
        lambda: plan(odd, data, four),
        lambda: train(odd, data, four, out=tmp_path / "run"),
    ):
        with pytest.raises(PlanError, match="does not divide the ranks evenly") as error:
            refused()
        assert error.value.fixes[0] == "train.table_shard_group_size: 2"
    assert not (tmp_path / "run").exists()


def test_a_plan_of_other_groups_is_refused_before_any_launch(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    cluster = Cluster(ranks_per_node=4, on="local")
    layout = plan(run.override(TWO), data, cluster)
    with pytest.raises(PlanError, match="table_shard_group_size: plan 2, run 4"):
        train(run, data, cluster, layout, out=tmp_path / "run")
    (warning,) = reckoning_warnings(layout, run.override(TWO, "train.table_sync_every_steps=4"), cluster)
    assert "table_sync_every_steps 1 (run: 4)" in warning


def test_a_search_for_the_smallest_cluster_leaves_out_ranks_that_no_groups_make_up() -> None:
    run = RunConfig.load(CONFIGS / "whatif_ads.yaml", ["train.table_shard_group_size=16"])
    planning = Planning.open(run, None)
    refused = {nodes: bool(planning.refusals(Shape.parse(f"{nodes}x8xh100"))) for nodes in (1, 2, 4)}
    assert refused == {1: True, 2: False, 4: False}
    # Each copy needs the memory of two nodes, however many there are.
    huge = run.override("plan.tables={item_id: {num_embeddings: 10000000000}}")
    with pytest.raises(CannotFitError, match="table item_id does not fit 16 ranks"):
        Planning.open(huge, None).check_bytes(Shape.parse("4x8xh100"))


def test_scoring_takes_one_copy_on_any_number_of_ranks(run: RunConfig, data: Dataset) -> None:
    grouped = run.override("train.table_shard_group_size=128", "train.table_sync_every_steps=20")
    scoring = scoring_config(grouped, "cpu")
    assert RunConfig.from_dict(scoring.as_dict()) == scoring
    assert plan(scoring, data, Cluster(ranks_per_node=3)).groups.count == 1


def test_a_trillion_parameters_on_1024_gpus_have_a_copy_on_each_group_of_128() -> None:
    run = RunConfig.load(CONFIGS / "whatif_dlrm_1_25t.yaml")
    shape = Shape.parse("128xp5.48xlarge")
    made = plan(
        run.override("train.table_shard_group_size=128", "train.table_sync_every_steps=20"), cluster=shape
    )
    alone = plan(run, cluster=Shape.parse("16xp5.48xlarge"), batch_size_per_rank=512)
    assert made.groups.count == 8
    assert len(made.memory) == 1024
    assert not made.warnings
    assert [table.shards for table in made.tables] == [table.shards for table in alone.tables]
    weights = [rank.weights for rank in alone.memory]
    assert [rank.weights for rank in made.memory] == weights * 8
    # A rank sends its part twice, but for the eighth that it keeps.
    assert made.summary()["table_groups"]["sync_nic_mib"] > 2 * 7 / 8 * min(weights) / 2**20
    assert made.step.table_sync_ms > 0
