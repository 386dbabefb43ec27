"""The cheapest cluster that fits: the search over nodes, and one model on real machines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobs import RunConfig
from jobs.hardware import catalogue_of
from jobs.planning import Planning
from jobs.smallest import node_kinds, smallest_plan
from sharding.errors import PlanError
from sharding.machines import CATALOGUE, MACHINES
from sharding.plan import Plan
from sharding.topology import Cluster
from sharding.verdicts import NoPlanFoundError
from tests.support.run_folders import plan as any_plan
from trainer.config import HardwareConfig

OWN_MACHINES = {
    "cheap": {"gpu": "t4", "gpus": 2, "price_per_hour": 1.0},
    "middling": {"gpu": "t4", "gpus": 8, "price_per_hour": 3.0},
    "dear": {"gpu": "h100", "gpus": 8, "price_per_hour": 10.0},
    "free": {"gpu": "t4", "gpus": 1},
}
OWN = catalogue_of(HardwareConfig.model_validate({"machines": OWN_MACHINES}))


class Limits:
    """Stands for a model that fits from so many nodes on, by bytes and by search."""

    def __init__(
        self,
        by_bytes: dict[str, int],
        by_search: dict[str, set[int]],
        refused: set[int] | None = None,
        wrong: set[int] | None = None,
    ) -> None:
        self.by_bytes, self.by_search = by_bytes, by_search
        self.refused, self.wrong = refused or set(), wrong or set()
        self.tried: list[str] = []

    def refusals(self, cluster: Cluster) -> list[str]:
        return [f"no training on {cluster}"] if cluster.nodes in self.refused else []

    def check_bytes(self, cluster: Cluster, batch_size: int | None) -> None:
        assert cluster.nodes not in self.refused
        if cluster.nodes < self.by_bytes[str(cluster.machine)]:
            raise PlanError(f"too small\n  largest: {cluster}", where="tables.t")

    def plan(self, cluster: Cluster, batch_size: int | None) -> Plan:
        self.tried.append(str(cluster))
        if cluster.nodes in self.wrong:
            raise PlanError("a wrong number", where="tables.t")
        if cluster.nodes not in self.by_search[str(cluster.machine)]:
            raise NoPlanFoundError("not found")
        return replace(any_plan(), cluster=cluster)


def found(limits: Limits, *names: str, **settings: Any) -> str:
    planning: Any = limits
    return str(smallest_plan(planning, node_kinds(names, OWN), **settings).cluster)


def test_the_lower_price_wins_over_fewer_nodes() -> None:
    limits = Limits({"cheap": 7, "dear": 1}, {"cheap": {7}, "dear": {1}})
    assert found(limits, "dear", "cheap") == "7xcheap"
    assert limits.tried == ["7xcheap"]  # 10 USD cannot beat 7


def test_a_kind_is_left_as_soon_as_it_costs_more_than_what_was_found() -> None:
    # 9 cheap nodes cost 9; of those at 3, which start at 6, a third one costs 9 as well, with more ranks.
    limits = Limits({"cheap": 5, "middling": 2}, {"cheap": set(range(9, 100)), "middling": {4}})
    assert found(limits, "middling", "cheap") == "9xcheap"
    assert [name for name in limits.tried if "middling" in name] == ["2xmiddling"]


def test_doubling_stops_short_of_what_costs_more_than_what_was_found() -> None:
    # 5 middling nodes cost 15: after 11 cheap ones 16 would be next, but 13 and 14 are cheaper.
    limits = Limits({"cheap": 8, "middling": 2}, {"cheap": set(range(13, 100)), "middling": {5}})
    assert found(limits, "cheap", "middling") == "13xcheap"
    assert "16xcheap" not in limits.tried


def test_clusters_that_training_refuses_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    refused = set(range(1, 200)) - {1, 2, 4, 8, 16}
    limits = Limits({"cheap": 3}, {"cheap": {5, 6, 7, 16}}, refused)
    assert found(limits, "cheap") == "16xcheap"
    assert limits.tried == ["4xcheap", "8xcheap", "16xcheap"]
    said = capsys.readouterr().err
    assert "123 numbers of nodes like 1xcheap are left out, since training refuses them" in said
    assert "such as: no training on 3xcheap" in said


def test_an_error_at_some_clusters_does_not_end_the_search(capsys: pytest.CaptureFixture[str]) -> None:
    limits = Limits({"cheap": 7, "dear": 1}, {"cheap": {8}, "dear": {1}}, wrong={7})
    assert found(limits, "dear", "cheap") == "8xcheap"
    assert "7xcheap: a wrong number" in capsys.readouterr().err


def test_the_final_error_says_why_no_kind_holds_the_tables() -> None:
    limits = Limits({"cheap": 500, "dear": 1}, {"dear": set()}, {3, 4}, wrong={1})
    with pytest.raises(PlanError, match="no plan was found") as error:
        found(limits, "cheap", "dear", max_nodes=4)
    assert error.value.also == (
        "2xcheap: too small (tables.t)",
        "2xdear: not found",
        "no training on 4xcheap",
        "no training on 4xdear",
    )
    assert "--max-nodes 8" in error.value.fixes
    with pytest.raises(PlanError) as error:
        found(Limits({"cheap": 500}, {}, {3, 4, 8}), "cheap", max_nodes=4)
    assert not any("--max-nodes" in fix for fix in error.value.fixes)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("h100", "--smallest 8xh100"),
        ("2xp5.48xlarge", "--smallest p5.48xlarge"),
        ("p5.48xlrge", "p5.48xlarge"),
    ],
)
def test_a_kind_that_is_none_is_refused_as_it_was_written(name: str, fix: str) -> None:
    with pytest.raises(PlanError) as error:
        node_kinds([name], CATALOGUE)
    assert (error.value.where, error.value.got) == ("--smallest", name)
    assert any(fix in text for text in error.value.fixes)


def whatif(**changes: Any) -> Planning:
    tables = {"t*": {"count": 8, "num_embeddings": 400_000_000}}
    base: dict[str, Any] = {"name": "w", "model": {"name": "dlrm", "embedding_dim": 64}}
    return Planning.open(RunConfig.from_dict({**base, "plan": {"tables": tables}, **changes}), None)


def test_what_would_help_the_largest_cluster_is_told_without_more_nodes() -> None:
    huge = whatif(plan={"tables": {"t": {"num_embeddings": 10**16}}})
    with pytest.raises(PlanError, match="no plan was found") as error:
        smallest_plan(huge, node_kinds(["cheap", "dear"], OWN), max_nodes=4)
    first, *others = error.value.fixes
    assert first.startswith("--max-nodes 8")
    assert others[0].startswith("fewer rows in table t, ")
    assert "or less on 4xdear" in others[0]
    assert not any("--cluster" in fix for fix in others)


def test_a_real_model_takes_no_ranks_that_do_not_divide_the_lanes() -> None:
    # 12 of 16 ranks would do, as below: 24 lanes take 3 machines of 8 ranks, not 2.
    planning = whatif(data={"num_lanes": 24}, train={"global_batch_size": 2400})
    plan = smallest_plan(planning, node_kinds(["p5.48xlarge"], CATALOGUE), batch_size_per_rank=64)
    assert str(plan.cluster) == "3xp5.48xlarge"
    assert not any("refused" in text for text in plan.warnings)


def test_a_table_that_may_not_be_split_is_named_where_nothing_holds_it() -> None:
    planning = whatif(data={"num_lanes": 64}, tables={"t3": {"sharding_types": ["table_wise"]}})
    with pytest.raises(PlanError) as error:
        smallest_plan(planning, node_kinds(["8xt4"], CATALOGUE), max_nodes=8)
    why, refused = error.value.also
    assert why.startswith("8x8xt4: a shard of table t3 does not fit one rank")
    assert why.endswith("(tables.t3.sharding_types)")
    assert "the number of lanes must be a multiple" in refused


def test_the_number_doubles_and_is_halved_back_to_the_least() -> None:
    limits = Limits({"cheap": 5}, {"cheap": set(range(13, 100))})
    assert found(limits, "cheap") == "13xcheap"
    assert limits.tried[:5] == ["5xcheap", "6xcheap", "7xcheap", "8xcheap", "16xcheap"]


def test_without_prices_the_fewest_ranks_win() -> None:
    limits = Limits({"free": 3}, {"free": {3}})
    assert found(limits, "free") == "3xfree"


def test_a_kind_without_a_price_comes_after_those_with_one() -> None:
    assert found(Limits({"free": 1, "dear": 4}, {"free": {1}, "dear": {4}}), "free", "dear") == "4xdear"
    assert found(Limits({"free": 1, "dear": 500}, {"free": {1}}), "free", "dear") == "1xfree"


def test_no_cluster_within_the_limit_is_an_error_that_names_it() -> None:
    with pytest.raises(PlanError, match="up to 4 nodes") as error:
        found(Limits({"cheap": 5}, {"cheap": {5}}), "cheap", max_nodes=4)
    assert "--max-nodes 8" in error.value.fixes
    assert found(Limits({"cheap": 4}, {"cheap": {4}}), "cheap", max_nodes=4) == "4xcheap"


def test_every_machine_with_a_price_is_a_kind_by_default() -> None:
    assert [str(kind) for kind in node_kinds((), OWN)] == [
        *(f"1x{machine.name}" for machine in MACHINES.values() if machine.price_per_hour is not None),
        "1xcheap",
        "1xmiddling",
        "1xdear",
    ]
    assert str(node_kinds(["8xh100"], OWN)[0]) == "1x8xh100"


def test_a_model_gets_as_many_nodes_as_its_bytes_need() -> None:
    # Eight tables of 400e6 * (64 * 4 + 4) bytes are 775 GiB: 12 of 16 H100 hold 0.85 * 80 GiB each.
    plan = smallest_plan(whatif(), node_kinds(["p5.48xlarge"], CATALOGUE), batch_size_per_rank=64)
    assert str(plan.cluster) == "2xp5.48xlarge"
    assert max(rank.memory_used for rank in plan.memory) < 0.85 * 80 * 2**30
