"""What the options mean, and which of them are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.cli import main
from jobs.synthesis.shape import Shape
from trainer.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "place", "hint"),
    [
        ({"rows": 0}, "--rows", "greater than or equal to 1"),
        ({"positive_rate": 1.0}, "--positive-rate", "less than 1"),
        ({"missing_share": -0.1}, "--missing-share", "greater than or equal to 0"),
        ({"cardinality": 1}, "--cardinality", "greater than or equal to 2"),
        ({"alpha": 0.0}, "--alpha", "greater than 0"),
        ({"sparse": 0}, "--sparse", "greater than or equal to 1"),
        ({"mean_length": 0.5}, "--mean-length", "greater than or equal to 1"),
        ({"seed": -1}, "--seed", "greater than or equal to 0"),
        ({"format": "csv"}, "--format", "'parquet' or 'tsv'"),
        ({"rows": 3, "files": 4}, "shardrec synth", "4 files need as many rows"),
        ({"history": 5, "days": 0}, "shardrec synth", "--history needs a time column"),
        ({"multi_hots": 2}, "--multi-hots", "did you mean `multi_hot`?"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], place: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        Shape.of(**{"rows": 100, **options})
    assert error.value.where == place
    assert hint in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rows", "many"),
        ("--format", "csv"),
        ("--rows", "10", "--alpha", "9"),
        (),
        ("--rows", "10", "--x", "1"),
    ],
)
def test_a_wrong_command_line_ends_with_code_2_before_spark_starts(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    assert main(["synth", "--out", str(tmp_path / "out"), *arguments, "--json"]) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"]
    assert "starting Spark" not in shown.err
    assert list(tmp_path.iterdir()) == []


def test_rows_of_files_follow_each_other_without_a_gap() -> None:
    shape = Shape.of(rows=1001, files=7)
    ends = [shape.rows_of_file(number) for number in range(7)]
    assert ends[0][0] == 0
    assert ends[-1][1] == 1001
    assert [stop for _, stop in ends[:-1]] == [start for start, _ in ends[1:]]
    assert {stop - start for start, stop in ends} == {143}


@pytest.mark.parametrize(
    ("rows", "files"), [(1, 1), (1_000_000, 4), (50_000_000, 64), (10_000_000_000, 2385)]
)
def test_files_are_enough_for_all_cores_and_not_too_many(rows: int, files: int) -> None:
    assert Shape.of(rows=rows).num_files == files


def test_cardinalities_are_spread_evenly_on_a_log_scale() -> None:
    assert list(Shape.of(rows=1, sparse=6).sparse_columns.values()) == [
        10,
        100,
        1000,
        10_000,
        100_000,
        1_000_000,
    ]
    assert Shape.of(rows=1, sparse=1, cardinality=7).sparse_columns == {"C1": 7}


def test_a_time_column_comes_with_histories_and_ids_with_the_format() -> None:
    assert Shape.of(rows=100).num_days == 0
    assert Shape.of(rows=100, history=5).num_days == 7
    assert Shape.of(rows=100, history=5, days=2).num_days == 2
    assert Shape.of(rows=100, history=5).num_users == 20
    assert not Shape.of(rows=100).hex_ids
    assert Shape.of(rows=100, format="tsv").hex_ids
    assert not Shape.of(rows=100, format="tsv", ids="int64").hex_ids
