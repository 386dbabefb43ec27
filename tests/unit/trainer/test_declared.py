from __future__ import annotations

from typing import Any

import pytest
import torch

from trainer.config import RunConfig
from trainer.declared import declared_inputs, declared_task
from trainer.errors import ConfigError


def declaring(declared: dict[str, Any], plan: dict[str, Any] | None = None, **keys: Any) -> RunConfig:
    return RunConfig.from_dict(
        {
            "name": "whatif",
            "model": {"name": "dlrm", "embedding_dim": 8},
            "plan": {"tables": declared, **(plan or {})},
            **keys,
        }
    )


def test_tables_need_neither_data_nor_features() -> None:
    task, inputs = declared_task(declaring({"user": {"num_embeddings": 10**12}}, {"num_dense": 13}))
    (table,) = inputs.tables
    assert (table.name, table.features) == ("user", ("user",))
    assert (table.num_embeddings, table.embedding_dim) == (10**12, 8)
    assert inputs.num_dense == 13
    assert all(parameter.device == torch.device("meta") for parameter in task.parameters())


def test_a_range_of_names_counts_from_one() -> None:
    run = declaring({"user_*": {"count": 400, "num_embeddings": 7, "pooling_factor": 20}})
    tables = declared_inputs(run, 8).tables
    assert [tables[0].name, tables[399].name, len(tables)] == ["user_1", "user_400", 400]
    assert {(table.num_embeddings, table.pooling_factors) for table in tables} == {(7, (20.0,))}


def test_a_list_gives_each_table_its_rows() -> None:
    tables = declared_inputs(declaring({"C*": {"num_embeddings": [5, 70, 6]}}), 8).tables
    assert [(table.name, table.num_embeddings) for table in tables] == [("C1", 5), ("C2", 70), ("C3", 6)]


def test_rows_rise_by_the_same_factor_from_min_to_max() -> None:
    run = declaring({"t*": {"count": 4, "num_embeddings": {"min": 10, "max": 10_000}}})
    assert [table.num_embeddings for table in declared_inputs(run, 8).tables] == [10, 100, 1000, 10_000]


def test_table_settings_apply_by_glob_and_win_over_the_declared_width() -> None:
    run = declaring(
        {"user_*": {"count": 2, "num_embeddings": 9, "embedding_dim": 16}, "item": {"num_embeddings": 9}},
        {"sharding_types": ["table_wise"]},
        tables={"user_2": {"embedding_dim": 32, "data_type": "fp16"}},
    )
    tables = declared_inputs(run, 8).tables
    assert [(t.name, t.embedding_dim, t.data_type) for t in tables] == [
        ("user_1", 16, "fp32"),
        ("user_2", 32, "fp16"),
        ("item", 8, "fp32"),
    ]
    assert {table.sharding_types for table in tables} == {("table_wise",)}


def test_types_for_every_table_leave_sequences_those_that_they_can_have() -> None:
    declared = {
        "user": {"num_embeddings": 9},
        "history": {"num_embeddings": 9, "pooling": "none"},
        "clicks": {"num_embeddings": 9, "pooling": "none"},
    }
    own = {"clicks": {"sharding_types": ["grid_shard"]}}
    run = declaring(declared, {"sharding_types": ["table_row_wise", "row_wise"]}, tables=own)
    assert [table.sharding_types for table in declared_inputs(run, 8).tables] == [
        ("table_row_wise", "row_wise"),
        ("row_wise",),
        ("grid_shard",),  # Asked for by name, so that the planner refuses it.
    ]
    run = declaring(declared, {"sharding_types": ["grid_shard"]})
    assert {table.sharding_types for table in declared_inputs(run, 8).tables} == {("grid_shard",)}


@pytest.mark.parametrize(
    ("tables", "where", "message"),
    [
        ({"user": {"num_embeddings": 9, "count": 2}}, "plan.tables.user", "one `*`"),
        ({"a*b*": {"num_embeddings": 9}}, "plan.tables.a*b*", "one `*`"),
        (
            {"a*": {"num_embeddings": 9}, "a1": {"num_embeddings": 9}},
            "plan.tables",
            "a1, of `a\\*` and of `a1`",
        ),
    ],
)
def test_names_that_do_not_count_up_to_tables_are_refused(
    tables: dict[str, Any], where: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        declared_inputs(declaring(tables), 8)
    assert error.value.where == where


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "empty list"),
        ({"min": 9, "max": 8}, "must not exceed"),
        ({"min": 8, "max": 9}, "needs a `count`"),
        (0, "plan.tables.t"),
    ],
)
def test_rows_that_make_no_table_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        declaring({"t": {"num_embeddings": rows}})


def test_a_count_that_contradicts_the_list_is_refused() -> None:
    with pytest.raises(ConfigError, match="lists 2 tables"):
        declaring({"t*": {"num_embeddings": [1, 2], "count": 3}})


def test_settings_of_a_table_that_is_not_declared_are_refused() -> None:
    run = declaring({"user": {"num_embeddings": 9}}, tables={"usr": {"data_type": "fp16"}})
    with pytest.raises(ConfigError, match="no table matches"):
        declared_inputs(run, 8)


def test_lanes_may_be_set_where_there_are_no_data() -> None:
    tables = {"user": {"num_embeddings": 9}}
    assert declaring(tables).override("data.num_lanes=64").data.num_lanes == 64
    assert declaring(tables, data={"num_lanes": 128}).data.num_lanes == 128
    with pytest.raises(ConfigError, match="data"):
        declaring(tables, data=7)


def test_a_config_without_declared_tables_still_needs_data_and_features() -> None:
    with pytest.raises(ConfigError) as error:
        RunConfig.from_dict({"name": "x", "model": {"name": "dlrm"}})
    assert "data" in str(error.value)
    assert "features" in str(error.value)
