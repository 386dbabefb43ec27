"""Random raw tables with random features of them, and how they are written as files of each format."""

from __future__ import annotations

import csv
import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tests.support.plain_ops import Op

FORMATS = ("parquet", "parquet by tasks", "csv", "json")
NAMES = ("c", "Name", "with space", "dot.ted", "ü", "`tick`", 'quo"te', "a,b")
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=6) | st.sampled_from(
    ["a", "b", "A", "0", " ", "007", "a|b", "|", "A b", "null", "NaN", "é"]
)
FINITE = st.floats(-1e6, 1e6).map(lambda x: round(x, 3)) | st.integers(-5, 5).map(float)
ANY_FLOAT = st.floats() | st.sampled_from(
    [-0.0, 5e-324, 1.7976931348623157e308, 2.0**53, 2.0**53 - 1, 1e15 + 0.5, math.inf, -math.inf, math.nan]
)
LIMITS = st.sampled_from([-(2**63), 2**63 - 1, 2**53 + 1, 0])
INTEGERS = st.integers(-(2**62), 2**62) | st.integers(-3, 3) | LIMITS
MOMENTS = datetime.datetime(1960, 1, 1), datetime.datetime(2100, 1, 1)
UTC = st.just(datetime.timezone.utc)
NUMBER_TEXT = st.sampled_from(["1e3", "+4", ".5", " 7 ", "-0.25", "  "]) | FINITE.map(str) | INTEGERS.map(str)
TIME_TEXT = st.datetimes(*MOMENTS).map(lambda t: t.replace(microsecond=0).isoformat(" "))


@dataclass(frozen=True)
class Kind:
    """A type of raw column.

    Attributes:
        arrow: in a Parquet file.
        values: that are not null.
        read_as: what feature chains start from: any of `number`, `time`, `token`, `list`.
        finite: whether every number fits a dense feature.
    """

    arrow: pa.DataType
    values: st.SearchStrategy[Any]
    read_as: tuple[str, ...]


TEXTS = Kind(pa.string(), TEXT, ("token",))
TOKEN_LISTS = Kind(pa.list_(pa.string()), st.lists(TEXT | st.none(), max_size=4), ("list",))
INT_LISTS = Kind(
    pa.list_(pa.int64()), st.lists(st.integers(0, 9) | LIMITS | st.none(), max_size=4), ("list",)
)
BOOLEANS = Kind(pa.bool_(), st.booleans(), ("number", "token"))
INT64 = Kind(pa.int64(), INTEGERS, ("number", "token"))
TIMES_AS_TEXT = Kind(pa.string(), TIME_TEXT, ("time", "token"))
NUMBERS_AS_TEXT = Kind(pa.string(), NUMBER_TEXT, ("number", "token"))
OF_TASKS: dict[str, Kind] = {
    "text": TEXTS,
    "int64": INT64,
    "int16": Kind(pa.int16(), st.integers(-300, 300), ("number", "token")),
    "double": Kind(pa.float64(), FINITE | st.just(math.nan), ("number", "token")),
    "any double": Kind(pa.float64(), ANY_FLOAT, ("token",)),
    "float": Kind(pa.float32(), FINITE.map(np.float32), ("number", "token")),
    "boolean": BOOLEANS,
    "date": Kind(
        pa.date32(),
        st.dates(datetime.date(1960, 1, 1), datetime.date(2100, 1, 1)),
        ("time", "token"),
    ),
    "timestamp": Kind(pa.timestamp("us", "UTC"), st.datetimes(*MOMENTS, timezones=UTC), ("time", "token")),
    "local timestamp": Kind(pa.timestamp("us"), st.datetimes(*MOMENTS), ("time", "token")),
    "times": TIMES_AS_TEXT,
    "numbers": NUMBERS_AS_TEXT,
    "texts": TOKEN_LISTS,
    "ints": INT_LISTS,
    "doubles": Kind(pa.list_(pa.float64()), st.lists(ANY_FLOAT | st.none(), max_size=4), ("list",)),
}
KINDS: dict[str, dict[str, Kind]] = {
    "parquet by tasks": OF_TASKS,
    "parquet": {
        **OF_TASKS,
        "decimal": Kind(
            pa.decimal128(12, 3), st.decimals(-1000, 1000, places=3, allow_nan=False), ("number", "token")
        ),
        "uint32": Kind(pa.uint32(), st.integers(0, 2**32 - 1), ("number", "token")),
        "uint64": Kind(pa.uint64(), st.integers(0, 2**64 - 1) | st.integers(0, 3), ("token",)),
    },
    "csv": {"text": TEXTS, "numbers": NUMBERS_AS_TEXT, "times": TIMES_AS_TEXT},
    "json": {
        "text": TEXTS,
        "int64": INT64,
        "double": Kind(pa.float64(), FINITE, ("number", "token")),
        "boolean": BOOLEANS,
        "times": TIMES_AS_TEXT,
        "numbers": NUMBERS_AS_TEXT,
        "texts": TOKEN_LISTS,
        "ints": INT_LISTS,
    },
}
SPLITS: dict[str, dict[str, Any]] = {
    "random": {"fractions": [0.6, 0.2, 0.2]},
    "by user": {"fractions": [0.6, 0.2, 0.2], "by": "user"},
    "time": {"method": "time", "column": "when", "fractions": [0.6, 0.2, 0.2]},
    "leave_last": {"method": "leave_last", "leave_last": {"user": "user", "time": "when"}},
    "column": {"method": "column", "column": "part"},
    "k_fold": {"method": "k_fold", "k_fold": {"k": 4, "fold": 1}},
}


@dataclass(frozen=True)
class DrawnFeature:
    """A feature and its ops; each op with all its parameters but those that are fitted."""

    name: str
    kind: str
    column: str
    ops: tuple[Op, ...]

    @property
    def group(self) -> dict[str, Any]:
        """Return it as the config has it."""
        ops = [{name: dict(params)} if params else name for name, params in self.ops]
        return {"columns": self.column, "name": self.name, "ops": ops}


@dataclass(frozen=True)
class DrawnTable:
    """Raw rows by column (None: missing), their kinds, and what is to be made of them."""

    source: str
    split: str
    kinds: Mapping[str, Kind]
    columns: Mapping[str, list[Any]]
    features: tuple[DrawnFeature, ...]
    files: int


@st.composite
def tables(draw: st.DrawFn, source: str | None = None, split: str = "random") -> DrawnTable:
    """Draw a table with `row`, `label`, `user`, `when`, `part`, some columns, and two features of each.

    Args:
        draw: of hypothesis.
        source: one of `FORMATS`; default any.
        split: one of `SPLITS`; tasks read Parquet themselves for `random` alone.
    """
    source = source or draw(st.sampled_from(FORMATS))
    rows = draw(st.integers(40, 90))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    chosen = draw(st.lists(st.sampled_from(sorted(KINDS[source])), min_size=4, max_size=6))
    kinds: dict[str, Kind] = {}
    columns: dict[str, list[Any]] = {
        "row": list(range(rows)),
        "label": [row % 2 for row in range(rows)],
        "user": [f"u{n}" for n in random.integers(0, 9, rows)],
        "when": random.integers(0, 10**9, rows).tolist(),
        "part": [["train", "train", "valid", "test"][n % 4] for n in range(rows)],
    }
    features: list[DrawnFeature] = []
    for number, kind in enumerate(chosen):
        name = f"{draw(st.sampled_from(NAMES))}{number}"
        kinds[name] = KINDS[source][kind]
        pool = [None, *draw(st.lists(kinds[name].values, min_size=1, max_size=10))]
        columns[name] = [pool[n] for n in random.integers(0, len(pool), rows)]
        for _ in range(2):
            features.append(draw(_features(f"f{len(features)}", name, kinds[name])))
    return DrawnTable(source, split, kinds, columns, tuple(features), draw(st.integers(1, 2)))


@st.composite
def _features(draw: st.DrawFn, name: str, column: str, kind: Kind) -> DrawnFeature:
    takes = draw(st.sampled_from(kind.read_as))
    if takes in ("number", "time") and draw(st.booleans()):
        return DrawnFeature(name, "dense", column, draw(_dense_ops(takes)))
    of = {"number": _numbers_of_ids, "time": _times, "token": _token_ops, "list": _list_ops}[takes]
    return DrawnFeature(name, "sparse", column, (*draw(of()), draw(_ids(takes))))


@st.composite
def _dense_ops(draw: st.DrawFn, takes: str) -> tuple[Op, ...]:
    """Draw ops that leave no missing value; none that cuts comes behind a number with a rounding error."""
    ops = list(draw(_times() if takes == "time" else _cuts(0)))
    value = draw(st.sampled_from([0, -1.5, "mean", "median", "mode"]))
    ops.append(("fill", {"value": value}))
    if value != "mean" and draw(st.booleans()):
        ops.append(("bucketise", {"quantiles": draw(st.integers(2, 5))}))
    last: list[list[Op]] = [
        [],
        [("standardise", {})],
        [("min_max", {}), ("clip", {"min": 0, "max": 1})],
        [("clip", {"min": 0}), ("log1p", {})],
    ]
    return (*ops, *draw(st.sampled_from(last)))


@st.composite
def _numbers_of_ids(draw: st.DrawFn) -> tuple[Op, ...]:
    filled: list[list[Op]] = [[], [("fill", {"value": draw(st.sampled_from([7, -0.5, "median", "mode"]))})]]
    return (*draw(_cuts(1)), *draw(st.sampled_from(filled)))


@st.composite
def _cuts(draw: st.DrawFn, least: int) -> list[Op]:
    found: list[Op] = [
        ("clip", {"min": -2.5, "max": 100}),
        ("clip", {"max": 3}),
        ("round", {"digits": draw(st.integers(-2, 2))}),
        ("bucketise", {"edges": [-1.0, 0.0, 2.5, 1000.0]}),
    ]
    return draw(st.lists(st.sampled_from(found), min_size=least, max_size=2))


@st.composite
def _times(draw: st.DrawFn) -> tuple[Op, ...]:
    zone = {"time_zone": draw(st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]))}
    unit = draw(st.sampled_from(["seconds", "days"]))
    part = draw(st.sampled_from(["hour", "weekday", "day_of_month", "month", "holiday", "age"]))
    if part == "age":
        return (("age", {"at": "2020-02-29T12:00:00", "unit": unit}),)
    dates = {"dates": ["2000-01-01", "1999-12-31"]} if part == "holiday" else {}
    return ((part, {**dates, **zone}),)


@st.composite
def _token_ops(draw: st.DrawFn) -> tuple[Op, ...]:
    first: list[list[Op]] = [[], [("lower", {})], [("fill", {"value": "none"})]]
    lists: list[list[Op]] = [[], [], [("split", {"delimiter": "|"})], [("words", {})]]
    ops = [*draw(st.sampled_from(first)), *draw(st.sampled_from(lists))]
    return (*ops, *draw(_truncate())) if ops and ops[-1][0] in ("split", "words") else tuple(ops)


@st.composite
def _list_ops(draw: st.DrawFn) -> tuple[Op, ...]:
    first: list[list[Op]] = [[], [("lower", {})], [("fill", {"value": "none"})]]
    return (*draw(st.sampled_from(first)), *draw(_truncate()))


@st.composite
def _truncate(draw: st.DrawFn) -> tuple[Op, ...]:
    keep = draw(st.sampled_from(["first", "last", None]))
    return () if keep is None else (("truncate", {"max_length": draw(st.integers(1, 3)), "keep": keep}),)


@st.composite
def _ids(draw: st.DrawFn, takes: str) -> Op:
    """Draw the op that makes ids; `most_frequent` is refused for lists, which tokens may become."""
    if draw(st.booleans()):
        return "hash", {
            "num_buckets": draw(st.sampled_from([1, 50, 2**40])),
            "seed": draw(st.integers(-3, 3)),
        }
    return "vocabulary", {
        "min_count": draw(st.integers(1, 4)),
        "max_size": draw(st.sampled_from([None, 1, 3])),
        "oov_buckets": draw(st.sampled_from([1, 1, 5])),
        "missing": draw(st.sampled_from(["padding", "most_frequent"])) if takes == "number" else "padding",
    }


def write(table: DrawnTable, folder: Path) -> dict[str, Any]:
    """Write the rows as files, and return the section `source` that reads them."""
    folder.mkdir()
    rows = len(table.columns["row"])
    for number, chosen in enumerate(np.array_split(np.arange(rows), table.files)):
        part = {name: [values[n] for n in chosen] for name, values in table.columns.items()}
        kind = table.source.split()[0]
        {"parquet": _write_parquet, "csv": _write_csv, "json": _write_json}[kind](
            folder / f"part-{number}.{kind}", part, table.kinds
        )
    source: dict[str, Any] = {"path": folder.name, "format": table.source.split()[0]}
    return {**source, "header": True, "multi_line": True} if table.source == "csv" else source


def _write_parquet(path: Path, columns: Mapping[str, list[Any]], kinds: Mapping[str, Kind]) -> None:
    types = {name: kind.arrow for name, kind in kinds.items()}
    made = {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    pq.write_table(pa.table(made), path, row_group_size=17)


def _write_csv(path: Path, columns: Mapping[str, list[Any]], _: Mapping[str, Kind]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _write_json(path: Path, columns: Mapping[str, list[Any]], _: Mapping[str, Kind]) -> None:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def as_read(table: DrawnTable, column: str) -> list[Any]:
    """Return the values of a column as a source of its format gives them."""
    values = table.columns[column]
    if table.source == "csv":
        return [None if value is None else str(value) for value in values]
    return (
        [[] if value is None else value for value in values]
        if "list" in table.kinds[column].read_as
        else values
    )
