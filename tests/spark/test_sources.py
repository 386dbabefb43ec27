"""Sources: CSV, TSV, JSON, Parquet, tables and frames, joins, and each way they can be wrong."""

from __future__ import annotations

import csv
import json
import re
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.appending import append_rows
from jobs.preparation.columns import token
from jobs.preparation.pipeline import prepare_dataset
from jobs.preparation.sources import raw_rows
from tests.spark.prepared import make_run
from trainer.config import RunConfig
from trainer.errors import ConfigError, DataError
from trainer.features.raw_values import tokens


def run_on(root: Path, source: dict[str, Any], **data: Any) -> RunConfig:
    return make_run(data={"root": str(root), "source": source, **data}, dense=[{"columns": "x"}])


def rows_of(run: RunConfig, spark: SparkSession) -> list[dict[str, Any]]:
    return sorted((row.asDict() for row in raw_rows(run, spark).collect()), key=str)


@pytest.mark.parametrize("lost", [0, 1, 30])
def test_rows_without_a_match_in_a_side_table_are_counted(
    spark: SparkSession, tmp_path: Path, lost: int
) -> None:
    rows = pd.DataFrame(
        {"label": [0, 1] * 50, "x": 1.0, "user": range(100), "item": [n % 10 for n in range(100)]}
    )
    rows.loc[90:, "label"] = 2
    pd.DataFrame({"user": range(lost, 100), "age": 30}).to_parquet(tmp_path / "users.parquet")
    pd.DataFrame({"item": [str(n) for n in range(10)], "price": None}).to_parquet(tmp_path / "items.parquet")
    joins = [{"source": {"path": f"{name}s.parquet"}, "on": [name]} for name in ("user", "item")]
    rows.to_parquet(tmp_path / "rows.parquet")
    run = run_on(tmp_path, {"path": "rows.parquet"}, joins=joins, clean={"where": "label < 2"})
    done = prepare_dataset(run, tmp_path / "out", spark=spark)
    users, items = done.manifest.joins
    assert (users.source, users.on, users.rows, users.unmatched) == ("users.parquet", ("user",), 90, lost)
    assert (items.rows, items.unmatched) == (90, 0)  # a match without a value is one
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [table["unmatched"] for table in report["joins"]] == [lost, 0]
    assert f"users.parquet  user  {lost:>20}" in done.report_text
    many = [note for note in report["notes"] if "have no match" in note]
    assert len(many) == (1 if lost == 30 else 0)
    assert all(note.startswith("data.joins.0 (users.parquet): 33.33 % of the rows") for note in many)

    rows.assign(user=rows["user"] + 40, x=2.0).to_parquet(tmp_path / "rows.parquet")
    more = append_rows(run, tmp_path / "out", "frozen", spark=spark)
    users, _ = more.manifest.joins
    late = sum(user < lost for user in range(40, 130)) + 30
    assert (users.rows, users.unmatched) == (180, lost + late)


def test_negatives_do_not_count_as_rows_without_a_match(spark: SparkSession, tmp_path: Path) -> None:
    rows = pd.DataFrame({"label": 1, "x": 1.0, "user": [n % 10 for n in range(60)], "item": range(60)})
    rows.to_parquet(tmp_path / "rows.parquet")
    pd.DataFrame({"item": range(45), "price": 3}).to_parquet(tmp_path / "items.parquet")
    data = {
        "joins": [{"source": {"path": "items.parquet"}, "on": ["item"]}],
        "negatives": {"user": "user", "item": "item", "train": {"per_positive": 2}},
        "split": {"fractions": [1, 0, 0]},
    }
    done = prepare_dataset(run_on(tmp_path, {"path": "rows.parquet"}, **data), tmp_path / "out", spark=spark)
    assert done.rows["train"] == 180
    assert [(table.rows, table.unmatched) for table in done.manifest.joins] == [(60, 15)]


@pytest.mark.parametrize("scale", [0, 2, 10, 38])
def test_decimals_of_any_scale_print_as_plain_numbers(
    spark: SparkSession, tmp_path: Path, scale: int
) -> None:
    unscaled = [0, 1, -1, 5, 70_000, -25, 10**scale, 7 * 10**scale, -(10**scale) - 1, 10**37 + 3, None]
    fitting = [n for n in unscaled if n is None or abs(n) < 10**38]
    values = [None if n is None else Decimal(n).scaleb(-scale, Context(prec=50)) for n in fitting]
    pq.write_table(pa.table({"x": pa.array(values, pa.decimal128(38, scale))}), tmp_path / "a.parquet")
    frame = spark.read.parquet(str(tmp_path / "a.parquet")).coalesce(1)
    found = [row[0] for row in frame.select(token(frame, "x")).collect()]
    wanted = [None if n is None else str(Fraction(n, 10**scale)) for n in fitting]
    for text, value, whole in zip(found, values, wanted, strict=True):
        assert (text is None) == (value is None)
        if text is not None and "/" not in whole:
            assert text == whole  # a whole number
        elif text is not None:
            assert re.fullmatch(r"-?[0-9]+[.][0-9]*[1-9]", text)
            assert Decimal(text) == value
    table = pq.read_table(tmp_path / "a.parquet")
    single = [tokens(table.column("x").slice(n, 1), "x").texts().to_pylist() for n in range(len(values))]
    assert [texts[0] if texts else None for texts in single] == found


@pytest.mark.parametrize("line", ['1,"Bed,",5\\"6', '1,"a;",in\\"ch', '1,"a|",\\"', '1,"x""y,",5\\"6,7\\"8'])
@pytest.mark.parametrize("delimiter", [",", "|"])
def test_a_backslash_and_a_quote_in_a_field_without_quotes_are_characters(
    spark: SparkSession, tmp_path: Path, line: str, delimiter: str
) -> None:
    written = line.replace("|", "/").replace(",", delimiter) if delimiter == "|" else line
    (tmp_path / "a.csv").write_text(f"{written}\n")
    fields = next(csv.reader([written], delimiter=delimiter))
    names = ["label", "x", *(f"t{n}" for n in range(len(fields) - 2))]
    source = {"path": "a.csv", "delimiter": delimiter, "columns": names}
    assert list(raw_rows(run_on(tmp_path, source), spark).collect()[0]) == fields


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_with_header_quotes_and_commas(spark: SparkSession, tmp_path: Path, end: str) -> None:
    text = 'label,x,title\n1,2.5,"Bed, ""Bath"""\n0,,plain\n'
    (tmp_path / "a.csv").write_text(text.replace("\n", end), newline="")
    assert rows_of(run_on(tmp_path, {"path": "a.csv", "header": True}), spark) == [
        {"label": "0", "x": None, "title": "plain"},
        {"label": "1", "x": "2.5", "title": 'Bed, "Bath"'},
    ]


def test_quotes_with_backslashes_as_spark_writes_them(spark: SparkSession, tmp_path: Path) -> None:
    titles = ['say "hi", all', "C:\\dir", 'a "b"', "plain", 'both \\" here']
    rows = [("1", str(n), title) for n, title in enumerate(titles)]
    frame = spark.createDataFrame(rows, ["label", "x", 'the "title"'])
    frame.coalesce(1).write.option("header", True).csv(str(tmp_path / "a.csv"))
    source = {"path": "a.csv", "header": True}
    with pytest.raises(DataError, match="have a backslash before them") as error:
        raw_rows(run_on(tmp_path, source), spark)
    assert 'escape: "\\\\"' in error.value.fixes[0]
    found = raw_rows(run_on(tmp_path, {**source, "escape": "\\"}), spark)
    assert found.columns == frame.columns
    assert sorted(map(tuple, found.collect())) == rows


@pytest.mark.parametrize("field", ['"C:\\"', '"x\\""y"', 'in\\"ch', '"{""a"": ""\\""}"'])
def test_backslashes_that_are_no_escapes_are_kept(spark: SparkSession, tmp_path: Path, field: str) -> None:
    (tmp_path / "a.csv").write_text(f"label,x,title\n1,2,{field}\n")
    plain = field[1:-1].replace('""', '"') if field[0] == '"' else field
    assert rows_of(run_on(tmp_path, {"path": "a.csv", "header": True}), spark)[0]["title"] == plain


def test_long_delimiter_and_other_encoding(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes('1::Café "x"::3\n0::b::4\n'.encode("latin-1"))
    source = {
        "path": "a.dat", "format": "csv", "delimiter": "::", "encoding": "ISO-8859-1",
        "columns": ["label", "title", "x"],
    }  # fmt: skip
    assert rows_of(run_on(tmp_path, source), spark)[1] == {"label": "1", "title": 'Café "x"', "x": "3"}


def test_globs_lists_and_folders_of_files(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / "days"
    folder.mkdir()
    for day in (1, 2, 3):
        (folder / f"day_{day}.tsv").write_text(f"1\t{day}\n0\t{day}\n")
    columns = {"columns": ["label", "x"]}
    assert len(rows_of(run_on(tmp_path, {"path": "days/day_[12].tsv", **columns}), spark)) == 4
    assert len(rows_of(run_on(tmp_path, {"path": "days", **columns}), spark)) == 6
    both = {"path": ["days/day_1.tsv", "days/day_3.tsv"], **columns}
    assert {row["x"] for row in rows_of(run_on(tmp_path, both), spark)} == {"1", "3"}


def test_json_lines_tables_and_brotli_parquet(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"label": 1, "x": 2.5, "ids": [1, 2]}\n{"label": 0, "x": null, "ids": []}\n'
    )
    found = rows_of(run_on(tmp_path, {"path": "a.jsonl"}), spark)
    assert {"label": 1, "x": 2.5, "ids": [1, 2]} in found
    table = pa.table({"label": [1, 0], "x": [1.0, 2.0]})
    pq.write_table(table, tmp_path / "b.parquet.brotli", compression="brotli")
    assert rows_of(run_on(tmp_path, {"path": "b.parquet.brotli"}), spark) == sorted(
        table.to_pylist(), key=str
    )
    spark.createDataFrame(table.to_pandas()).createOrReplaceTempView("some_clicks")
    assert len(rows_of(run_on(tmp_path, {"table": "some_clicks"}), spark)) == 2


def test_a_table_of_the_catalog_is_prepared_by_its_full_name(spark: SparkSession, tmp_path: Path) -> None:
    rows = spark.range(400).selectExpr("cast(id % 2 as int) label", "cast(id as double) x")
    rows.write.saveAsTable("default.clicks_of_test", path=str(tmp_path / "table"), mode="overwrite")
    try:
        run = run_on(tmp_path, {"table": "spark_catalog.default.clicks_of_test"})
        done = prepare_dataset(run, tmp_path / "data", spark=spark)
    finally:
        spark.sql("DROP TABLE default.clicks_of_test")
    assert sum(done.rows.values()) == 400
    assert done.manifest.raw is not None
    assert done.manifest.raw["source"]["table"] == "spark_catalog.default.clicks_of_test"


def test_index_column_line_breaks_missing_words_and_byte_order_mark(
    spark: SparkSession, tmp_path: Path
) -> None:
    text = '\ufeff,label,x,title\n0,1,NA,"two\nlines"\n1,0,2,\\N\n'
    (tmp_path / "a.csv").write_text(text)
    source = {"path": "a.csv", "header": True, "multi_line": True, "null_values": ["NA", "\\N"]}
    rows = raw_rows(run_on(tmp_path, source), spark).drop("__unnamed_0")
    assert sorted(rows.collect(), key=str) == [("0", "2", None), ("1", None, "two\nlines")]


def test_names_are_taken_literally_where_they_exist(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / "{a,b} [1]*"
    folder.mkdir()
    (folder / "day [12].csv").write_text("label,x\n1,2\n")
    (folder / "day 1.csv").write_text("label,x\n0,3\n")
    for path in ("{a,b} [1]*/day [12].csv", "{a,b} [[]1]*/day [[]*"):
        assert rows_of(run_on(tmp_path, {"path": path, "header": True}), spark) == [{"label": "1", "x": "2"}]


def test_timestamps_are_the_same_ids_in_every_time_zone(spark: SparkSession) -> None:
    frame = spark.sql("select timestamp_micros(1616893200500000) as t")
    zone = spark.conf.get("spark.sql.session.timeZone")
    try:
        spark.conf.set("spark.sql.session.timeZone", "Europe/Berlin")
        assert frame.select(token(frame, "t")).collect() == [("2021-03-28 01:00:00.5",)]
    finally:
        spark.conf.set("spark.sql.session.timeZone", str(zone))


def test_side_tables_join_left_also_across_types(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("label,x,user\n1,1,7\n0,2,8\n1,3,\n")
    pq.write_table(pa.table({"user": [7, 9], "age": [30, 40]}), tmp_path / "users.parquet")
    run = run_on(
        tmp_path,
        {"path": "rows.csv", "header": True},
        joins=[{"source": {"path": "users.parquet"}, "on": ["user"]}],
    )
    assert [(row["x"], row["age"]) for row in rows_of(run, spark)] == [("2", None), ("1", 30), ("3", None)]


def test_side_table_with_a_key_twice_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("label,x,user\n1,1,7\n")
    (tmp_path / "users.csv").write_text("user,age\n7,30\n7,31\n8,1\n")
    users = {"source": {"path": "users.csv", "header": True}, "on": ["user"]}
    run = run_on(tmp_path, {"path": "rows.csv", "header": True}, joins=[users])
    with pytest.raises(DataError) as error:
        raw_rows(run, spark)
    assert "not unique" in str(error.value)
    assert error.value.got == "7"
    assert "users.csv" in error.value.where


def test_side_table_that_repeats_a_column_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("label,x,user\n1,1,7\n")
    (tmp_path / "users.csv").write_text("user,x\n7,30\n")
    users = {"source": {"path": "users.csv", "header": True}, "on": ["user"]}
    run = run_on(tmp_path, {"path": "rows.csv", "header": True}, joins=[users])
    with pytest.raises(ConfigError, match="has columns that the rows have already"):
        raw_rows(run, spark)


def test_missing_file_names_the_nearest_one(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("label,x\n1,1\n")
    with pytest.raises(DataError) as error:
        raw_rows(run_on(tmp_path, {"path": "rating.csv", "header": True}), spark)
    assert "ratings.csv" in error.value.fixes[0]
    with pytest.raises(DataError, match="no file matches the pattern"):
        raw_rows(run_on(tmp_path, {"path": "*.parquet"}), spark)


@pytest.mark.parametrize(
    ("name", "text", "line", "what"),
    [
        ("a.csv", "label,x\n1,2\n0,3\n1,2,3\n", "1,2,3", "too few or too many columns"),
        ("a.csv", "label,x\n1,2\n0,3\n1\n", "1", "too few or too many columns"),
        ("a.jsonl", '{"label": 1, "x": 2}\n{"label": 0,\n', '{"label": 0,', "no JSON objects"),
    ],
)
def test_line_that_does_not_fit_is_shown(
    spark: SparkSession, tmp_path: Path, name: str, text: str, line: str, what: str
) -> None:
    (tmp_path / name).write_text(text)
    source = {"path": name, **({"header": True} if name == "a.csv" else {})}
    with pytest.raises(DataError) as error:
        prepare_dataset(run_on(tmp_path, source), tmp_path / "out", spark=spark)
    assert f"1 line(s) {'are' if 'JSON' in what else 'have'} {what}" in str(error.value)
    assert name in error.value.where
    assert error.value.got == line
    assert ("multi_line: true" in str(error.value)) == (name == "a.csv")


@pytest.mark.parametrize("content", ["", "label,x\n"])
def test_empty_csv_is_refused(spark: SparkSession, tmp_path: Path, content: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    source = {"path": "a.csv", "header": True} if content else {"path": "a.csv", "columns": ["label", "x"]}
    with pytest.raises(DataError, match="no rows"):
        prepare_dataset(run_on(tmp_path, source), tmp_path / "out", spark=spark)
    assert not (tmp_path / "out").exists()


def test_truncated_parquet_is_named(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    pd.DataFrame({"label": [0, 1] * 500, "x": range(1000)}).to_parquet(folder / "good.parquet")
    whole = (folder / "good.parquet").read_bytes()
    (folder / "torn.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as error:
        prepare_dataset(run_on(tmp_path, {"path": "parts"}), tmp_path / "out", spark=spark)
    assert "torn.parquet" in str(error.value)


def test_parquet_with_a_damaged_page_is_named(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    pd.DataFrame({"label": [0, 1] * 5000, "x": range(10000)}).to_parquet(path)
    whole = bytearray(path.read_bytes())
    whole[200:2000] = b"\xff" * 1800  # the footer stays as it is
    path.write_bytes(whole)
    with pytest.raises(DataError) as error:
        prepare_dataset(run_on(tmp_path, {"path": "bad.parquet"}), tmp_path / "out", spark=spark)
    assert "bad.parquet" in str(error.value)


def test_text_that_is_called_parquet_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("label,x\n1,2\n")
    with pytest.raises(DataError, match="another format"):
        raw_rows(run_on(tmp_path, {"path": "a.parquet"}), spark)


def test_missing_table_is_named(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        raw_rows(run_on(tmp_path, {"table": "no_such_table"}), spark)
    assert "no_such_table" in error.value.where


def test_source_needs_format_and_columns(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 2\n")
    with pytest.raises(ConfigError, match="format"):
        raw_rows(run_on(tmp_path, {"path": "a.txt"}), spark)
    with pytest.raises(ConfigError, match="column names"):
        raw_rows(run_on(tmp_path, {"path": "a.txt", "format": "tsv"}), spark)
