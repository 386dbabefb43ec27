"""Ids that come and go: the same rows, losses and fresh rows at one, two and four ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sharding.planner import make_plan
from sharding.topology import Cluster
from tests.distributed.id_cases import (
    BATCH,
    STEPS,
    TABLES,
    fresh_rows,
    raw_batch,
    reference_run,
    resume,
    train_and_save,
)
from tests.support.ranks import run_distributed
from tests.support.reference_tables import TableModel

RANKS = (1, 2, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ids")
    for ranks in RANKS:
        save_plan(folder / f"{ranks}.json", ranks, "adagrad")
    save_plan(folder / "rowwise.json", 2, "rowwise_adagrad")
    return folder


def save_plan(file: Path, ranks: int, optimizer: str) -> None:
    plan = make_plan(
        TableModel(TABLES),
        TABLES,
        Cluster(ranks_per_node=ranks),
        batch_size_per_rank=BATCH // ranks,
        embedding_optimizer=optimizer,
    )
    plan.save(file)


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[int, list[dict[str, Any]]]:
    return {
        ranks: run_distributed(
            train_and_save, ranks, str(folder / f"{ranks}.json"), str(folder / f"at_{ranks}")
        )
        for ranks in RANKS
    }


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows of a global batch by feature."""
    return {key: [row for part in parts for row in part[key]] for key in parts[0]}


def test_rows_and_losses_are_those_of_the_dictionaries_at_every_number_of_ranks(
    runs: dict[int, list[dict[str, Any]]],
) -> None:
    reference = reference_run()
    assert all(evicted > 3 for evicted in reference["evicted"].values()), reference["evicted"]
    for ranks, results in runs.items():
        for step in range(STEPS):
            assert joined([r["rows"][step] for r in results]) == reference["rows"][step], (ranks, step)
        assert results[0]["losses"] == pytest.approx(reference["losses"], abs=1e-5), ranks


def test_a_run_goes_on_at_another_number_of_ranks(
    runs: dict[int, list[dict[str, Any]]], folder: Path
) -> None:
    for before, after in ((4, 1), (1, 4), (2, 4), (4, 2)):
        results = run_distributed(resume, after, str(folder / f"{after}.json"), str(folder / f"at_{before}"))
        whole = runs[before]
        for step in range(STEPS // 2):
            expected = joined([r["rows"][STEPS // 2 + step] for r in whole])
            assert joined([r["rows"][step] for r in results]) == expected, (before, after, step)
        assert results[0]["losses"] == pytest.approx(whole[0]["losses"][STEPS // 2 :], abs=1e-5)
        assert results[0]["figures"] == whole[0]["figures"][1]


@pytest.mark.parametrize(
    ("plan", "ranks", "optimizer"),
    [("1", 1, "adagrad"), ("2", 2, "adagrad"), ("rowwise", 2, "rowwise_adagrad")],
)
def test_rows_with_a_new_owner_start_anew_and_others_stay(
    folder: Path, plan: str, ranks: int, optimizer: str
) -> None:
    results = run_distributed(fresh_rows, ranks, str(folder / f"{plan}.json"), optimizer)
    for table in TABLES[:-1]:
        assert sum(result[table.name] for result in results) > 3, "no learnt row changed hands"


def test_a_lookup_counts_nothing_and_gives_unknown_ids_one_row(
    runs: dict[int, list[dict[str, Any]]],
) -> None:
    for results in runs.values():
        assert joined([r["again"] for r in results]) == joined([r["rows"][-1] for r in results])
        assert all(r["unchanged"] for r in results)
        assert {i for r in results for i in r["strange"]} == {0, 1}


def test_figures_are_those_of_all_ranks(runs: dict[int, list[dict[str, Any]]]) -> None:
    first, second = runs[1][0]["figures"]
    for results in runs.values():
        assert all(r["figures"] == [first, second] for r in results)
    rows = [joined([part["rows"][step] for part in runs[1]]) for step in range(STEPS // 2)]
    for table in TABLES[:-1]:
        feature = table.features[0]
        asked = [i for step in range(STEPS // 2) for row in raw_batch(step)[0][feature] for i in row if i]
        unknown = sum(row.count(1) for step in rows for row in step[feature])
        assert first[table.name]["oov_share"] == unknown / len(asked)
        assert first[table.name]["admitted"] >= first[table.name]["evicted"]
        assert 0 < second[table.name]["occupancy"] <= 1
