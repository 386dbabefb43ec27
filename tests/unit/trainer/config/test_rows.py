"""Rules of the sections that clean, label, weigh and split rows."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.config import RunConfig, SplitConfig
from trainer.config.yaml_text import parse_yaml
from trainer.errors import ConfigError


def run_of(**data: Any) -> RunConfig:
    section = {"label": {"column": "y"}, **data}
    features = {"sparse": [{"columns": "a"}]}
    return RunConfig.from_dict(
        {"name": "a", "data": section, "features": features, "model": {"name": "dlrm"}}
    )


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        ({"label": {}}, "give `column`, or `where`, or `implicit: true`"),
        ({"label": {"column": "y", "implicit": True}}, "give `column`, or `where`, or `implicit: true`"),
        ({"label": {"column": "y", "where": "y > 1"}}, "give `column`, or `where`, or `implicit: true`"),
        ({"label": {"where": "y > 1", "positive_at_least": 1}}, "`positive_at_least` means nothing"),
        ({"source": {"path": "a.csv"}}, "a CSV or TSV source needs its column names"),
        ({"source": {"path": ["d/*.tsv.gz", "b.csv"]}}, "a CSV or TSV source needs its column names"),
        ({"source": {"path": "days", "format": "tsv"}}, "a CSV or TSV source needs its column names"),
        ({"source": {"table": "t", "on_corrupt": "skip"}}, "`on_corrupt` means nothing for a table"),
        ({"label": {"implicit": True, "positive_values": ["a"]}}, "`positive_values` means nothing"),
        ({"label": {"column": "y", "positive_at_least": 1, "positive_values": ["a"]}}, "not both"),
        ({"label": {"column": "y", "positive_values": []}}, "at least 1 item"),
        ({"weight": "w", "weights_by": {"column": "e", "values": {"a": 1}}}, "`weight` or `weights_by`"),
        ({"weights_by": {"column": "e", "values": {"view": -1}}}, "weight of `view` must be >= 0"),
        ({"downsample_negatives": {"keep": 0}}, "greater than 0"),
        ({"clean": {"k_core": {"user": 0}}}, "`user` needs a number of rows >= 1"),
        ({"clean": {"deduplicate": {"order_by": "t"}}}, "`order_by` means nothing without `by`"),
        ({"clean": {"k_cor": {"user": 5}}}, "did you mean `k_core`?"),
        ({"split": {"method": "column"}}, "`method: column` needs `column`"),
        ({"split": {"method": "k_fold"}}, "needs `k_fold`"),
        ({"split": {"method": "files"}}, "needs `files`"),
        ({"split": {"until": [1, 2]}}, "`until` means nothing for `method: random`, only for time"),
        ({"split": {"method": "time", "column": "t", "by": "user"}}, "only for random, k_fold"),
        ({"split": {"method": "time", "column": "t", "until": [1]}}, "at least 2 items"),
        ({"split": {"method": "k_fold", "k_fold": {"k": 5, "fold": 5}}}, "0 to 4"),
        ({"split": {"method": "k_fold", "k_fold": {"k": 2, "fold": 0}}}, "give `valid_share`"),
        (
            {"split": {"method": "column", "column": "s", "values": {"train": ["a", 1], "test": ["1"]}}},
            "`1` stands under `train` and `test`",
        ),
        (
            {"split": {"method": "column", "column": "s", "values": {"test": ["b"]}}},
            "required key is missing",
        ),
    ],
)
def test_sections_that_contradict_themselves_name_the_rule(data: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_of(**data)
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    ("split", "key", "what", "example"),
    [
        ({"fractions": [0.5, 0.5]}, "fractions", "3 values, not of 2", "fractions: [0.8, 0.1, 0.1]"),
        ({"fractions": [1.0]}, "fractions", "3 values, not of 1", "fractions: [0.8, 0.1, 0.1]"),
        ({"fractions": [0.7, 0.1, 0.1, 0.1]}, "fractions", "not of 4", "fractions: [0.8, 0.1, 0.1]"),
        ({"fractions": {"train": 0.8}}, "fractions", "a valid list", "fractions: [0.8, 0.1, 0.1]"),
        ({"fractions": [80, 10, 10]}, "", "[80.0, 10.0, 10.0] sum to 100", ""),
        ({"method": "time"}, "", "needs `column`, for instance `column: timestamp`", ""),
        ({"method": "k_fold", "k_fold": 5}, "k_fold", "a section of keys", "k_fold: {k: 5, fold: 0}"),
        ({"method": "k_fold", "k_fold": {"k": 5}}, "k_fold.fold", "missing", "k_fold: {k: 5, fold: 0}"),
        (
            {"method": "leave_last", "leave_last": "user"},
            "leave_last",
            "a section of keys",
            "leave_last: {user: user_id, time: timestamp}",
        ),
        (
            {"method": "time", "column": "t", "until": "2024-01-01"},
            "until",
            "a valid list",
            "until: ['2024-03-01', '2024-03-08']",
        ),
        ("random", "", "a section of keys", "split: {method: random, fractions: [0.8, 0.1, 0.1]}"),
        ([0.8, 0.2], "", "a section of keys", "split: {method: random, fractions: [0.8, 0.1, 0.1]}"),
    ],
)
def test_a_split_of_another_form_is_told_the_form(split: Any, key: str, what: str, example: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_of(split=split)
    error = caught.value
    assert error.where == f"config: data.split{'.' if key else ''}{key}"
    assert what in error.what
    assert error.also == ()
    assert error.fixes == ((f"for instance `{example}`",) if example else ())


def test_every_example_of_a_split_is_one() -> None:
    alone = {name: field.examples[0] for name, field in SplitConfig.model_fields.items() if field.examples}
    methods = {"until": "time", "values": "column", "fractions": "random", "column": "time"}
    for name, example in alone.items():
        split = {"method": methods.get(name, name), "column": "timestamp", name: example}
        assert run_of(split=split).data.split.model_dump(exclude_defaults=True)


def test_numbers_may_be_keys_and_values_and_survive_the_resolved_config() -> None:
    data = {
        "label": {"column": "y", "positive_values": ["buy", 4]},
        "weights_by": {"column": "stars", "values": {1: 0.5, "five": 2}},
        "clean": {"where": "y > 0", "deduplicate": {"by": ["user"]}, "k_core": {"user": 5}},
        "split": {"method": "time", "column": "t", "until": ["2024-01-01", 7.5]},
    }
    run = run_of(**data)
    assert run.data.weights_by is not None
    assert run.data.weights_by.values == {"1": 0.5, "five": 2.0}
    assert RunConfig.from_dict(parse_yaml(run.to_yaml())) == run


@pytest.mark.parametrize(
    "data",
    [
        {"clean": {"where": "y > 0"}},
        {"label": {"column": "y", "positive_values": ["a"]}},
        {"weights_by": {"column": "e", "values": {"a": 1}}},
        {"downsample_negatives": {"keep": 0.1}},
        {"split": {"by": "user"}},
    ],
)
def test_what_decides_the_rows_is_part_of_the_preparation(data: dict[str, Any]) -> None:
    assert run_of(**data).preparation_hash() != run_of().preparation_hash()


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ({}, {"train", "valid", "test"}),
        ({"fractions": [0.9, 0.0, 0.1]}, {"train", "test"}),
        ({"method": "time", "column": "t", "fractions": [1, 0, 0]}, {"train"}),
        ({"method": "time", "column": "t", "until": [5, 5]}, {"train", "test"}),
        ({"method": "column", "column": "s"}, {"train"}),
        (
            {"method": "column", "column": "s", "values": {"train": ["a"], "valid": ["b"]}},
            {"train", "valid"},
        ),
        ({"method": "k_fold", "k_fold": {"k": 3, "fold": 0}}, {"train", "valid", "test"}),
        ({"method": "k_fold", "k_fold": {"k": 2, "fold": 0, "valid_share": 0}}, {"train", "test"}),
        ({"method": "files", "files": {"train": ["a"], "test": ["b"]}}, {"train", "test"}),
    ],
)
def test_a_split_is_empty_on_purpose_or_wanted(split: dict[str, Any], wanted: set[str]) -> None:
    assert SplitConfig.model_validate(split).wanted() == wanted
