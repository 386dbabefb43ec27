from __future__ import annotations

from typing import Any

import pytest

from sharding.id_buckets import IdPolicy
from trainer.config import RunConfig
from trainer.errors import ConfigError
from trainer.inputs import model_inputs
from trainer.registry import ModelInputs
from trainer.schema import Feature, FeatureSpec, FeatureStatistics, FittedOp, VectorTable


def _feature(name: str, *, column: str | None = None, kind: Any = "sparse", **keys: Any) -> Feature:
    values = {"table": name, "num_embeddings": 10, "is_list": kind == "sequence", **keys}
    return Feature(name=name, kind=kind, column=column or name, **values)


def _dense(name: str) -> Feature:
    return Feature(name=name, kind="dense", column=name)


def _run(features: dict[str, Any], **keys: Any) -> RunConfig:
    return RunConfig.from_dict(
        {
            "name": "test",
            "data": {"label": {"column": "label"}},
            "features": features,
            "model": {"name": "dlrm"},
            **keys,
        }
    )


def _inputs(run: RunConfig, *features: Feature, lengths: dict[str, float] | None = None) -> ModelInputs:
    spec = FeatureSpec(features=features, label=FittedOp(name="label"))
    statistics = {name: FeatureStatistics(mean_length=length) for name, length in (lengths or {}).items()}
    return model_inputs(run, spec, statistics, 16)


HISTORY = {"user": "user", "item": "item", "time": "t"}


def test_features_keep_the_spec_order_and_dense_are_counted() -> None:
    run = _run({"dense": [{"columns": "I*"}], "sparse": [{"columns": "C*"}]})
    inputs = _inputs(run, _dense("I1"), _feature("C2"), _dense("I2"), _feature("C1"))
    assert inputs.num_dense == 2
    assert inputs.features == ("C2", "C1")
    assert [t.name for t in inputs.tables] == ["C2", "C1"]
    assert [t.num_embeddings for t in inputs.tables] == [10, 10]


def test_vectors_widen_the_dense_input_and_have_no_table() -> None:
    run = _run({"dense": [{"columns": "I*"}], "sparse": [{"columns": "C*"}]})
    tables = [VectorTable(folder=f"vectors/{n}", dim=dim, digest="") for n, dim in enumerate((64, 7))]
    looked_up = [_feature(f"v{n}", kind="vector", table=None, vectors=t) for n, t in enumerate(tables)]
    inputs = _inputs(run, looked_up[0], _dense("I1"), _feature("C1"), looked_up[1])
    assert inputs.num_dense == 1 + 64 + 7
    assert inputs.features == ("C1",)
    assert [t.name for t in inputs.tables] == ["C1"]


def test_width_comes_from_tables_then_group_then_model() -> None:
    run = _run(
        {"sparse": [{"columns": ["a", "b"], "embedding_dim": 8}, {"columns": "c"}]},
        tables={"a": {"embedding_dim": 4}},
    )
    inputs = _inputs(run, _feature("a"), _feature("b"), _feature("c"))
    assert {t.name: t.embedding_dim for t in inputs.tables} == {"a": 4, "b": 8, "c": 16}


def test_group_is_found_by_name_then_exact_column_then_glob() -> None:
    groups = [
        {"columns": "C*", "embedding_dim": 1},
        {"columns": ["C1", "C2"], "embedding_dim": 2},
        {"columns": "C2", "name": "again", "embedding_dim": 3},
    ]
    run = _run({"sparse": groups})
    inputs = _inputs(run, _feature("C3"), _feature("C2"), _feature("again", column="C2"))
    assert [t.embedding_dim for t in inputs.tables] == [1, 2, 3]


def test_table_settings_are_carried_over() -> None:
    settings = {
        "data_type": "fp16",
        "sharding_types": ["row_wise"],
        "compute_kernels": ["fused"],
        "min_partition": 4,
        "cache_load_factor": 0.2,
        "learning_rate": 0.5,
        "lookup_group": "wide",
    }
    run = _run(
        {"sparse": [{"columns": ["a", "b"]}]},
        tables={"a": settings},
        plan={"sharding_types": ["table_wise", "column_wise"]},
    )
    first, second = _inputs(run, _feature("a"), _feature("b")).tables
    assert (first.data_type, first.sharding_types, first.compute_kernels) == (
        "fp16",
        ("row_wise",),
        ("fused",),
    )
    assert (first.min_partition, first.cache_load_factor, first.learning_rate) == (4, 0.2, 0.5)
    assert (first.lookup_group, second.lookup_group) == ("wide", None)
    assert (second.data_type, second.sharding_types) == ("fp32", ("table_wise", "column_wise"))
    assert second.compute_kernels is second.min_partition is second.learning_rate is None


def test_shared_table_takes_the_largest_size_and_all_pooling_factors() -> None:
    run = _run(
        {
            "sparse": [{"columns": "item", "embedding_dim": 8}],
            "sequence": [{"name": "seen", "history": HISTORY, "table": "item", "pooling": "mean"}],
        }
    )
    inputs = _inputs(
        run,
        _feature("item", num_embeddings=10),
        _feature("seen", column="item", kind="sequence", table="item", num_embeddings=12),
        lengths={"item": 1.0, "seen": 7.5},
    )
    (table,) = inputs.tables
    assert table.features == ("item", "seen")
    assert table.num_embeddings == 12
    assert table.embedding_dim == 8
    assert table.pooling_factors == (1.0, 7.5)


@pytest.mark.parametrize("pooling", ["sum", "mean", "none"])
def test_one_id_takes_on_the_pooling_of_the_list_it_shares_with(pooling: str) -> None:
    run = _run(
        {
            "sparse": [{"columns": "item"}],
            "sequence": [{"name": "seen", "history": HISTORY, "table": "item", "pooling": pooling}],
        }
    )
    inputs = _inputs(run, _feature("item"), _feature("seen", kind="sequence", table="item"))
    assert inputs.tables[0].pooling == pooling


def test_lists_of_different_pooling_cannot_share_a_table() -> None:
    run = _run(
        {
            "sparse": [{"columns": "tags", "pooling": "mean"}],
            "sequence": [{"name": "seen", "history": HISTORY, "table": "tags", "pooling": "none"}],
        }
    )
    with pytest.raises(ConfigError, match="different pooling") as error:
        _inputs(run, _feature("tags", is_list=True), _feature("seen", kind="sequence", table="tags"))
    assert error.value.where == "features.sparse.0.pooling, features.sequence.0.pooling"


def test_widths_of_one_table_must_agree_unless_tables_sets_one() -> None:
    features = {
        "sparse": [
            {"columns": "a", "embedding_dim": 4},
            {"columns": "b", "embedding_dim": 8, "table": "a"},
        ]
    }
    spec = (_feature("a"), _feature("b", table="a"))
    with pytest.raises(ConfigError, match="different embedding_dim") as error:
        _inputs(_run(features), *spec)
    assert error.value.where == "features.sparse.0.embedding_dim, features.sparse.1.embedding_dim"
    run = _run(features, tables={"a": {"embedding_dim": 6}})
    assert _inputs(run, *spec).tables[0].embedding_dim == 6


def test_glob_without_a_table_is_an_error_that_lists_the_tables() -> None:
    run = _run({"sparse": [{"columns": ["user_id", "item_id"]}]}, tables={"usr_id": {"embedding_dim": 4}})
    with pytest.raises(ConfigError) as error:
        _inputs(run, _feature("user_id"), _feature("item_id"))
    assert error.value.where == "tables.usr_id"
    assert "user_id, item_id" in str(error.value)
    assert "did you mean `user_id`?" in str(error.value)


def test_feature_that_the_config_does_not_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match="does not name") as error:
        _inputs(_run({"sparse": [{"columns": "C*"}]}), _feature("D1"))
    assert error.value.got == "D1"


def test_table_name_with_a_dot_is_an_error_with_a_fix() -> None:
    with pytest.raises(ConfigError, match="dot") as error:
        _inputs(_run({"sparse": [{"columns": "user.id"}]}), _feature("user.id"))
    assert "user_id" in error.value.fixes[0]


def test_no_sparse_feature_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least one sparse"):
        _inputs(_run({"dense": [{"columns": "I1"}]}), _dense("I1"))


def test_ids_give_a_table_its_rows_and_policy() -> None:
    ids = {"num_embeddings": 500, "evict": "distance_lfu", "min_count": 3, "decay_exponent": 0.5}
    run = _run({"sparse": [{"columns": ["a", "b"]}]}, tables={"*": {"learning_rate": 0.1}, "a": {"ids": ids}})
    unbounded, plain = _inputs(run, _feature("a", num_embeddings=2**62 + 1), _feature("b")).tables
    assert (unbounded.num_embeddings, unbounded.learning_rate) == (500, 0.1)
    assert unbounded.ids == IdPolicy("distance_lfu", min_count=3, decay_exponent=0.5)
    assert (plain.num_embeddings, plain.ids) == (10, None)


def test_unbounded_ids_without_rows_of_their_own_are_refused() -> None:
    run = _run({"sparse": [{"columns": "a"}]})
    with pytest.raises(ConfigError, match=r"tables\.a\.ids: \{num_embeddings: 1000000\}"):
        _inputs(run, _feature("a", num_embeddings=2**62 + 1))


@pytest.mark.parametrize(
    ("other", "words"),
    [({"data_type": "int8"}, "int8 rows"), ({"compute_kernels": ["fused_uvm_caching"]}, "behind a cache")],
)
def test_ids_refuse_rows_that_cannot_be_written(other: dict[str, Any], words: str) -> None:
    run = _run({"sparse": [{"columns": "a"}]}, tables={"*": other, "a": {"ids": {"num_embeddings": 9}}})
    with pytest.raises(ConfigError, match=words):
        _inputs(run, _feature("a"))


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ({"num_embeddings": 9, "evict": "ttl"}, "needs `ttl_steps`"),
        ({"num_embeddings": 9, "decay_exponent": 2.0}, "goes with `evict: distance_lfu`"),
        ({"num_embeddings": 2}, "num_embeddings"),
        ({"num_embeddings": 9, "evict": "mru"}, "evict"),
        ({"evict": "lru"}, "num_embeddings"),
    ],
)
def test_ids_of_a_config_are_checked(ids: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _run({"sparse": [{"columns": "a"}]}, tables={"a": {"ids": ids}})


@pytest.mark.parametrize(
    ("ranks", "expected"), [([3, 1, 1], (1, 3)), ("0..2, 7", (0, 1, 2, 7)), ("5", (5,)), (None, None)]
)
def test_the_constraints_of_a_table_reach_the_planner(ranks: Any, expected: Any) -> None:
    settings = {
        "ranks": ranks,
        "enforce_hbm": True,
        "stochastic_rounding": False,
        "bounds_check_mode": "fatal",
        "weight_init_max": 0.001,
    }
    run = _run({"sparse": [{"columns": "C*"}]}, tables={"C*": settings})
    assert RunConfig.from_dict(run.as_dict()) == run
    (table,) = _inputs(run, _feature("C1")).tables
    assert table.ranks == expected
    assert (table.enforce_hbm, table.stochastic_rounding, table.bounds_check_mode) == (True, False, "fatal")
    assert table.weight_init_max == 0.001


@pytest.mark.parametrize("ranks", ["0-7", "7..0", "", [], [-1], "0..", "a"])
def test_ranks_written_otherwise_are_refused(ranks: Any) -> None:
    with pytest.raises(ConfigError, match=r"tables\.C1\.ranks"):
        _run({"sparse": [{"columns": "C*"}]}, tables={"C1": {"ranks": ranks}})


@pytest.mark.parametrize(("rows", "dim"), [(2, 8), (100, 20), (10_000, 60), (10**9, 64)])
def test_auto_follows_the_fourth_root_of_the_rows_up_to_the_models_width(rows: int, dim: int) -> None:
    run = _run({"sparse": [{"columns": "C1", "embedding_dim": "auto"}]})
    spec = FeatureSpec(features=(_feature("C1", num_embeddings=rows),), label=FittedOp(name="label"))
    assert model_inputs(run, spec, {}, 64).tables[0].embedding_dim == dim


def test_auto_of_a_table_wins_over_its_groups_number() -> None:
    run = _run({"sparse": [{"columns": "C1", "embedding_dim": 32}]}, tables={"C*": {"embedding_dim": "auto"}})
    assert _inputs(run, _feature("C1")).tables[0].embedding_dim == 12


def test_no_model_looks_up_the_target_of_user_rows() -> None:
    seen = _feature("seen", kind="sequence", table="item", num_embeddings=50)
    target = seen.model_copy(update={"name": "targets", "column": "targets", "role": "target"})
    features = {"sparse": [{"columns": "user"}], "sequence": [{"columns": "seen", "pooling": "none"}]}
    spec = FeatureSpec(features=(_feature("user"), seen, target), label=FittedOp(name="label"))
    inputs = model_inputs(_run(features), spec, {}, 16)
    assert inputs == _inputs(_run(features), _feature("user"), seen)
    assert [f.name for f in spec.sparse] == ["user", "seen", "targets"]  # a batch holds them all
    assert (spec.target, spec.seen) == (target, (seen,))
    with pytest.raises(ConfigError, match=r"cannot be ranked(.|\n)*tables\.item\.ids"):
        _inputs(
            _run(features, tables={"item": {"ids": {"num_embeddings": 9}}}), _feature("user"), seen, target
        )


def test_only_a_target_changes_the_hash_of_a_spec() -> None:
    seen = _feature("seen", kind="sequence")
    label = FittedOp(name="label")
    # As it was before features had a role: checkpoints name it.
    assert FeatureSpec(features=(seen,), label=label).hash == "ed1f935d5769ac37"
    target = seen.model_copy(update={"role": "target"})
    assert FeatureSpec(features=(target,), label=label).hash != "ed1f935d5769ac37"
