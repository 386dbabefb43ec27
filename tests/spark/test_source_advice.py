"""A source that is read in another way than it was written: the first fix says how it should be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.preparation.pipeline import prepare_dataset
from tests.spark.prepared import make_run
from trainer.errors import UserError

pytestmark = pytest.mark.thorough

NAMES = {"columns": ["label", "x"]}
HEADER = {"header": True}
CASES: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "commas as tsv",
        "label,x\n1,2\n",
        {"format": "tsv", **HEADER},
        "format: csv, which parts the line in 2",
    ),
    ("semicolons as csv", "label;x\n1;2\n", {"format": "csv", **HEADER}, 'delimiter: ";", which parts'),
    ("tabs as csv", "label\tx\n1\t2\n", {"format": "csv", **HEADER}, "format: tsv, which parts"),
    ("comma rows as tsv", "1,2\n0,3\n", {"format": "tsv", **NAMES}, "format: csv, which parts"),
    ("semicolon rows as csv", "1;2\n0;3\n", {"format": "csv", **NAMES}, 'delimiter: ";", which parts'),
    ("too few columns", "1\n0,3\n", {"format": "csv", **NAMES}, "check `delimiter`"),
    ("no header, a number twice", "0,0\n1,2\n", {"format": "csv", **HEADER}, "header: false, columns: [...]"),
    ("no header", "0,7\n1,2\n", {"format": "csv", **HEADER}, "header: false, columns: [...]"),
    (
        "a name twice",
        "label,x,x\n1,2,3\n",
        {"format": "csv", **HEADER},
        "rename one of the two in the header",
    ),
    ("a header as a row", "label,x\n1,2\n", {"format": "csv", **NAMES}, "data.source.header: true"),
    ("another word", "yes,2\n1,2\n", {"format": "csv", **NAMES}, "data.label.positive_values: [...]"),
    ("text as Parquet", "label,x\n1,2\n", {"format": "parquet"}, "format: csv"),
    ("tabs as Parquet", "label\tx\n1\t2\n", {"format": "parquet"}, "format: tsv"),
    ("objects as Parquet", '{"label": 1, "x": 2}\n', {"format": "parquet"}, "format: json"),
    ("torn Parquet", "PAR1\n1,2\n", {"format": "parquet"}, "write the file again"),
    ("bytes as Parquet", "\x00\x01,2\n1,2\n", {"format": "parquet"}, "write the file again"),
]


def refused(spark: SparkSession, root: Path, source: dict[str, Any]) -> UserError:
    run = make_run(data={"root": str(root), "source": source}, dense=[{"columns": "x"}])
    with pytest.raises(UserError) as error:
        prepare_dataset(run, root / "out", spark=spark)
    return error.value


@pytest.mark.parametrize(("text", "options", "fix"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_the_first_fix_names_the_format_that_the_file_has(
    spark: SparkSession, tmp_path: Path, text: str, options: dict[str, Any], fix: str
) -> None:
    (tmp_path / "rows").write_text(text)
    error = refused(spark, tmp_path, {"path": "rows", **options})
    assert error.fixes[0].startswith(fix)
    assert "join" not in str(error)


def test_columns_without_names_are_asked_for_with_the_first_line(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.csv").write_text("1,2\n0,3\n")
    error = refused(spark, tmp_path, {"path": "rows"})
    assert error.what == "a text source needs its column names"
    assert error.got == "the first line '1,2'"
    assert error.fixes[0] == "columns: [NAME_1, NAME_2], with 2 name(s), if the line is a row"


@pytest.mark.parametrize("inside", [None, "a/b.csv"])
def test_an_empty_folder_is_named_with_its_key(
    spark: SparkSession, tmp_path: Path, inside: str | None
) -> None:
    (tmp_path / "rows").mkdir()
    if inside is not None:
        (tmp_path / "rows" / "a").mkdir()
        (tmp_path / "rows" / inside).write_text("label,x\n")
    error = refused(spark, tmp_path, {"path": "rows", "format": "csv", **HEADER})
    assert (error.what, error.where) == ("the folder holds no files", "data.source.path")
    assert error.got == str(tmp_path / "rows")
    assert ["day=1" in fix for fix in error.fixes] == [inside is not None]
