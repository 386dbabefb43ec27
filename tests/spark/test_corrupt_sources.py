"""Damaged raw rows: the place is named, or what is damaged is left out, counted, and told of."""

from __future__ import annotations

import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.preparation import sources
from jobs.preparation.files import find_files
from jobs.preparation.pipeline import Prepared, prepare_dataset
from jobs.preparation.sources import raw_rows
from tests.spark.prepared import make_run, read_all
from tests.support.damage import flip_bytes, truncate
from trainer.config import SourceConfig
from trainer.errors import ConfigError, DataError
from trainer.schema import Manifest

pytestmark = pytest.mark.thorough

GROUP = 10
ALL_TRAIN = {"fractions": [1, 0, 0]}


def write_parts(folder: Path, names: str = "abc", rows: int = 40, **options: Any) -> None:
    """Write parts with rows numbered through; `y` is half of `row`."""
    folder.mkdir(exist_ok=True)
    for part, name in enumerate(names):
        row = np.arange(part * rows, (part + 1) * rows)
        columns = {"label": row % 2, "row": row, "y": row / 2, "ids": [[n, n + 1] for n in row % 5]}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=GROUP, **options)


def prepared(
    spark: SparkSession,
    root: Path,
    source: dict[str, Any],
    sequence: list[dict[str, Any]] | None = None,
    **data: Any,
) -> Prepared:
    run = make_run(
        data={"root": str(root), "source": source, "split": ALL_TRAIN, **data},
        dense=[{"columns": "y"}],
        sequence=sequence if sequence is not None else [{"columns": "ids"}] if data.get("keep") else [],
    )
    return prepare_dataset(run, root / "out", spark=spark)


@pytest.mark.parametrize("column", ["y", "ids"])
def test_a_damaged_row_group_is_named(spark: SparkSession, tmp_path: Path, column: str) -> None:
    write_parts(tmp_path / "parts")
    flip_bytes(tmp_path / "parts" / "b.parquet", 2, column)  # lengths of lists among them
    with pytest.raises(DataError, match="cannot be read") as error:
        prepared(spark, tmp_path, {"path": "parts"}, keep=["row"])
    assert error.value.where == f"{tmp_path}/parts/b.parquet: row group 2 (10 rows)"
    assert "on_corrupt: skip" in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [0, 3, 400])
def test_a_truncated_file_is_named(spark: SparkSession, tmp_path: Path, size: int) -> None:
    write_parts(tmp_path / "parts")
    truncate(tmp_path / "parts" / "b.parquet", size)
    with pytest.raises(DataError, match="cannot be read as Parquet") as error:
        prepared(spark, tmp_path, {"path": "parts"})
    assert error.value.where == f"{tmp_path}/parts/b.parquet"


def test_damaged_row_groups_and_files_are_skipped_and_counted(spark: SparkSession, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    write_parts(parts, "abcd")
    flip_bytes(parts / "a.parquet", 1, "y")
    truncate(parts / "b.parquet", 500)
    for group in range(4):
        flip_bytes(parts / "c.parquet", group, "row")
    flip_bytes(parts / "d.parquet", 0, "ids")
    flip_bytes(parts / "d.parquet", 3, "label")
    source = {"path": "parts", "on_corrupt": "skip", "row_number": "n"}
    done = prepared(spark, tmp_path, source, keep=["row", "n"])
    rows = read_all(done.path, "row")
    sound = [*range(10), *range(20, 40), *range(130, 150)]
    assert rows.index.tolist() == sound
    assert rows["y"].tolist() == [row / 2 for row in sound]
    assert rows["keep.n"].tolist() == list(range(len(sound)))  # the order of the files, copies or not
    expected = (
        f"data.source: skipped as damaged: row group(s) 1 of {parts}/a.parquet, 10 rows",
        f"data.source: skipped as damaged: the whole file {parts}/b.parquet, its rows unknown",
        f"data.source: skipped as damaged: the whole file {parts}/c.parquet, 40 rows",
        f"data.source: skipped as damaged: row group(s) 0, 3 of {parts}/d.parquet, 20 rows",
    )
    assert Manifest.load(done.path).remarks == expected
    assert [line for line in expected if line not in done.report_text] == []


def test_sound_files_are_read_as_ever_where_damage_may_be_skipped(
    spark: SparkSession, tmp_path: Path
) -> None:
    write_parts(tmp_path / "parts")
    done = prepared(spark, tmp_path, {"path": "parts", "on_corrupt": "skip"}, keep=["row"])
    assert (done.rows["train"], done.manifest.remarks) == (120, ())


def test_copies_of_damaged_files_keep_the_kind_of_their_times(spark: SparkSession, tmp_path: Path) -> None:
    moment = datetime.datetime(2024, 5, 1, 12, 30, 15, 123456)
    for name, options in {"old": {"use_deprecated_int96_timestamps": True}, "new": {}}.items():
        times = pa.array([moment] * 40, pa.timestamp("us", None if name == "old" else "UTC"))
        table = pa.table({"label": [0, 1] * 20, "x": range(40), "t": times})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=GROUP, **options)
        run = make_run(
            data={"root": str(tmp_path), "source": {"path": f"{name}.parquet", "on_corrupt": "skip"}},
            dense=[{"columns": "x"}],
        )
        whole = raw_rows(run, spark)
        before, kind = whole.where("x < 10").select("t").distinct().collect(), whole.schema["t"].dataType
        flip_bytes(tmp_path / f"{name}.parquet", 1, "x")
        left = raw_rows(run, spark)
        assert left.count() == 30
        assert left.schema["t"].dataType == kind
        assert left.select("t").distinct().collect() == before


def test_a_source_with_nothing_sound_in_it_is_an_error(spark: SparkSession, tmp_path: Path) -> None:
    write_parts(tmp_path / "parts")
    for name in "abc":
        truncate(tmp_path / "parts" / f"{name}.parquet", 100)
    with pytest.raises(DataError, match="every file of the source is damaged"):
        prepared(spark, tmp_path, {"path": "parts", "on_corrupt": "skip"})
    (tmp_path / "a.csv").write_text("label,y\n1\n2\n")
    with pytest.raises(DataError, match="the source has no rows"):
        prepared(spark, tmp_path, {"path": "a.csv", "header": True, "on_corrupt": "skip"})


def test_executors_that_see_no_copies_lose_the_whole_file(tmp_path: Path) -> None:
    write_parts(tmp_path)
    flip_bytes(tmp_path / "b.parquet", 1, "y")
    source = SourceConfig(path=f"file:{tmp_path}", on_corrupt="skip")
    found = find_files(source, ".", "data.source", local=False)
    assert [path for group in found.groups for path in group.paths] == [
        f"file:{tmp_path}/{n}.parquet" for n in "ac"
    ]
    assert found.lost == (f"skipped as damaged: the whole file {tmp_path}/b.parquet, 40 rows",)


def test_files_on_a_store_cannot_be_skipped(spark: SparkSession) -> None:
    source = {"path": "s3a://bucket/days/*.parquet", "on_corrupt": "skip"}
    run = make_run(data={"source": source}, dense=[{"columns": "x"}])
    with pytest.raises(ConfigError, match="only where this machine can open them") as error:
        raw_rows(run, spark)
    assert error.value.where == "data.source.on_corrupt"


CSV = "label,y,title\n" + "".join(f"{n % 2},{n},t\n" for n in range(20))
JSON = "".join(f'{{"label": {n % 2}, "y": {n}}}\n' for n in range(20))
LINES: list[tuple[str, str, int, str]] = [
    ("a.csv", CSV + "1\n1,2,3,4\n\n0,5,t\n", 2, "2 line(s) have too few or too many columns"),
    ("a.tsv", CSV.replace(",", "\t") + "1\t2\n0\t5\tt\n", 1, "1 line(s) have too few or too many columns"),
    ("a.jsonl", JSON + '5\n[1]\n"s"\n{"label"\n{"label": 0, "y": 5}\n', 4, "4 line(s) are no JSON objects"),
]


@pytest.mark.parametrize(("name", "text", "lost", "words"), LINES, ids=[case[0] for case in LINES])
def test_lines_that_cannot_be_read_are_skipped_and_counted(
    spark: SparkSession, tmp_path: Path, name: str, text: str, lost: int, words: str
) -> None:
    (tmp_path / name).write_text(text)
    source = {"path": name, "on_corrupt": "skip", **({} if "json" in name else {"header": True})}
    done = prepared(spark, tmp_path, source)
    assert done.rows["train"] == 21
    (remark,) = done.manifest.remarks
    assert words in remark
    assert remark.startswith("data.source: skipped: ")
    assert name in remark
    # However few columns are asked for, the same lines are left out.
    run = make_run(data={"root": str(tmp_path), "source": source}, dense=[{"columns": "y"}])
    assert raw_rows(run, spark).select("label").count() == 21
    assert lost == int(words.split()[0])


def test_torn_archives_are_skipped_whole(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "days").mkdir()
    (tmp_path / "days" / "a.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    torn = gzip.compress((CSV + "".join(f"1,{n},\n" for n in range(100_000))).encode())
    (tmp_path / "days" / "b.csv.gz").write_bytes(torn[: len(torn) // 2])
    source = {"path": "days", "header": True}
    with pytest.raises(DataError, match="damaged") as error:
        prepared(spark, tmp_path, source)
    assert "b.csv.gz" in error.value.where
    done = prepared(spark, tmp_path, {**source, "on_corrupt": "skip"})
    assert done.rows["train"] == 20
    assert done.manifest.remarks == (
        f"data.source: skipped as damaged: the whole file {tmp_path}/days/b.csv.gz, its rows unknown",
    )


DAYS = ("01", "02", "eu")


def write_days(folder: Path, kind: str) -> dict[str, Any]:
    """Write an archive of 50 rows for each day, columns in turns; return the source."""
    plain = kind == "plain csv"
    for number, day in enumerate(DAYS):
        names = ["label", "y"] if plain or number % 2 else ["y", "label"]
        rows = [{"label": n % 2, "y": 100 * number + n} for n in range(50)]
        mark = "\t" if kind == "tsv" else ","
        lines = [mark.join(str(row[name]) for name in names) for row in rows]
        if kind == "json":
            lines = [json.dumps({name: row[name] for name in names}) for row in rows]
        elif not plain:
            lines = [mark.join(names), *lines]
        (folder / f"day={day}").mkdir(parents=True)
        (folder / f"day={day}" / "part.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    options = {"json": {}, "plain csv": {"columns": ["label", "y"]}}.get(kind, {"header": True})
    return {"path": folder.name, "format": kind.removeprefix("plain "), "on_corrupt": "skip", **options}


@pytest.mark.parametrize("kind", ["csv", "tsv", "plain csv", "json"])
@pytest.mark.parametrize("lost", [(), ("eu",), ("02", "eu")])
def test_partition_columns_stay_where_torn_archives_are_skipped(
    spark: SparkSession, tmp_path: Path, kind: str, lost: tuple[str, ...]
) -> None:
    source = write_days(tmp_path / "days", kind)
    for day in lost:
        torn = tmp_path / "days" / f"day={day}" / "part.gz"
        truncate(torn, torn.stat().st_size // 2)
    done = prepared(spark, tmp_path, source, keep=["day", "y"], sequence=[])
    rows = read_all(done.path, "y")
    # `01` beside `eu` is a text, with `eu` lost as well.
    expected = [(day, 100 * n + k, k % 2) for n, day in enumerate(DAYS) if day not in lost for k in range(50)]
    found = zip(rows["keep.day"], rows["y"].astype(int), rows["label"].astype(int), strict=True)
    assert sorted(found) == expected
    assert len(done.manifest.remarks) == len(lost)


def test_partition_columns_stay_where_headers_differ_in_order(spark: SparkSession, tmp_path: Path) -> None:
    for number, header in enumerate(("label,y", "y,label")):
        place = tmp_path / "days" / f"day={number}" / "hour=7"
        place.mkdir(parents=True)
        (place / "rows.csv").write_text(f"{header}\n0,0\n1,1\n")
    source = {"path": "days", "header": True, "row_number": "row"}
    run = make_run(data={"root": str(tmp_path), "source": source}, dense=[{"columns": "y"}])
    rows = raw_rows(run, spark).select("row", "day", "hour", "label", "y").collect()
    assert sorted(map(tuple, rows)) == [(n, n // 2, 7, str(n % 2), str(n % 2)) for n in range(4)]


@pytest.mark.parametrize("name", ["day", "Day"])
def test_a_column_that_is_a_folder_name_too_is_refused(
    spark: SparkSession, tmp_path: Path, name: str
) -> None:
    (tmp_path / "days" / "day=1").mkdir(parents=True)
    (tmp_path / "days" / "day=1" / "a.csv").write_text(f"label,{name},y\n1,9,5\n0,8,6\n")
    source = {"path": "days", "header": True}
    run = make_run(data={"root": str(tmp_path), "source": source}, dense=[{"columns": "y"}])
    with pytest.raises(
        DataError, match=f"column '{name}' is in the files and in the names of their folders"
    ) as told:
        raw_rows(run, spark)
    (advice,) = (fix for fix in told.value.fixes if "=*" in fix)
    run = run.override(f"data.source.path=days/{advice.split()[-1]}")
    assert [row["y"] for row in raw_rows(run, spark).collect()] == ["5", "6"]


def test_what_a_side_table_lost_is_told_under_its_key(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("label,y,user\n" + "1,1,7\n0,2,8\n" * 5)
    (tmp_path / "users.csv").write_text("user,age\n7,30\n8\n")
    users = {"source": {"path": "users.csv", "header": True, "on_corrupt": "skip"}, "on": ["user"]}
    done = prepared(spark, tmp_path, {"path": "rows.csv", "header": True}, joins=[users])
    (remark,) = done.manifest.remarks
    assert remark.startswith("data.joins.0.source: skipped: 1 line(s)")


MAP = pa.map_(pa.string(), pa.int64())
MAPS = {
    "map": pa.array([[("a", 1)], [("b", 2), ("c", 3)], None], MAP),
    "in a struct": pa.array([{"m": [("a", 1)]}, {"m": None}, None], pa.struct({"m": MAP})),
    "in a list": pa.array([[[("a", 1)]], [], None], pa.list_(MAP)),
}


@pytest.mark.parametrize("maps", MAPS.values(), ids=list(MAPS))
def test_columns_that_hold_maps_pass_the_checks_of_sources_and_side_tables(
    spark: SparkSession, tmp_path: Path, maps: pa.Array
) -> None:
    columns = {"label": [0, 1, 0], "y": [1.0, 2.0, 3.0], "user": [7, 8, 9]}
    pq.write_table(pa.table({**columns, "m": maps}), tmp_path / "rows.parquet")
    pq.write_table(pa.table({"user": [7, 8, 9], "m2": maps}), tmp_path / "users.parquet")
    users = {"source": {"path": "users.parquet", "on_corrupt": "skip"}, "on": ["user"]}
    done = prepared(spark, tmp_path, {"path": "rows.parquet", "on_corrupt": "skip"}, joins=[users])
    assert (done.rows["train"], done.manifest.remarks) == (3, ())


def test_parquet_that_was_looked_into_is_not_read_once_more_for_bad_lines(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parts(tmp_path / "parts")
    monkeypatch.setattr(sources, "_sound_lines", lambda *_: pytest.fail("Parquet has no lines"))
    source = SourceConfig(path="parts", on_corrupt="skip")
    assert sources.read_source(source, str(tmp_path), spark, "data.source", remarks=[]).count() == 120
