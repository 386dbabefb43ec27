"""The hashes of raw rows that Arrow gives are those that Spark gives."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.preparation.row_hashes import hashable, row_hashes, with_row_hashes

pytestmark = pytest.mark.thorough

UTC = datetime.timezone.utc
_DAYS = st.dates(datetime.date(1600, 1, 1), datetime.date(2300, 1, 1))
_MOMENTS = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1))
_KINDS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-(2**7), 2**7 - 1),
    pa.int16(): st.integers(-(2**15), 2**15 - 1),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.string(): st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    pa.date32(): _DAYS,
    pa.timestamp("us"): _MOMENTS,
    pa.timestamp("us", "UTC"): _MOMENTS.map(lambda moment: moment.replace(tzinfo=UTC)),
}


@st.composite
def _tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(1, 20))
    columns = {}
    for number, (kind, values) in enumerate(_KINDS.items()):
        nullable = st.one_of(st.none(), values)
        plain = draw(st.lists(nullable, min_size=rows, max_size=rows))
        columns[f"c.{number}"] = pa.array(plain, kind)
        lists = st.one_of(st.none(), st.lists(nullable, max_size=4))
        columns[f"l {number}"] = pa.array(draw(st.lists(lists, min_size=rows, max_size=rows)), pa.list_(kind))
    return pa.table(columns)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(table=_tables(), seed=st.integers(0, 2**31 - 1))
def test_arrow_hashes_as_spark_does(spark, tmp_path_factory, table, seed):
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    pq.write_table(table, path)
    frame = spark.read.parquet(str(path)).coalesce(1)
    found = with_row_hashes(frame, frame.columns[::-1], seed).select("__hash", "__order").collect()
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    assert all(hashable(array.type) for array in columns.values())
    hashes, orders = row_hashes(columns, seed)
    assert [(row["__hash"], row["__order"]) for row in found] == list(zip(hashes, orders, strict=True))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("array<bigint>", [None, [], [None], [None, None], [1], [1, None], [None, 1], [1, None, None]]),
        ("array<string>", [None, [], [""], [None], ["0"], ["", None], [None, ""], ["1", None, "1"]]),
        ("array<array<bigint>>", [None, [], [None], [[]], [[None]], [[], None], [None, []]]),
        ("struct<a:bigint,b:bigint>", [None, (None, None), (1, None), (None, 1), (1, 1)]),
        ("array<struct<a:bigint,b:bigint>>", [None, [], [None], [(None, None)], [(1, None)], [(None, 1)]]),
        ("map<string,bigint>", [None, {}, {"a": None}, {"a": 1}, {"b": 1}]),
    ],
)
def test_what_is_empty_or_null_in_a_column_has_a_hash_of_its_own(spark, tmp_path, kind, values):
    frame = spark.createDataFrame([(n, value) for n, value in enumerate(values)], f"n int, x {kind}")
    frame.coalesce(1).orderBy("n").write.parquet(str(tmp_path / "rows"))
    read = spark.read.parquet(str(tmp_path / "rows")).coalesce(1)
    found = [tuple(row) for row in with_row_hashes(read, ["x"], 3).select("__hash", "__order").collect()]
    assert len(set(found)) == len(values)
    array = pq.read_table(tmp_path / "rows", columns=["x"]).column("x").combine_chunks()
    if hashable(array.type):
        assert list(zip(*row_hashes({"x": array}, 3), strict=True)) == found


def test_slices_hash_as_the_whole(spark):
    table = pa.table(
        {"a": [1, None, 3, 4], "b": [["x"], None, ["y", None, "z"], []], "t": ["p", "q", None, "r"]}
    )
    whole = row_hashes({name: table[name].chunk(0) for name in table.column_names}, 5)
    part = table.slice(1, 3)
    sliced = row_hashes({name: part[name].chunk(0) for name in table.column_names}, 5)
    assert [x[1:].tolist() for x in whole] == [x.tolist() for x in sliced]


@pytest.mark.parametrize(
    "kind", [pa.uint32(), pa.decimal128(5, 2), pa.timestamp("ns"), pa.binary(), pa.struct([])]
)
def test_other_types_are_left_to_spark(kind):
    assert not hashable(kind)
    assert not hashable(pa.list_(kind))
