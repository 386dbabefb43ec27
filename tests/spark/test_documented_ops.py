"""Every example of the documentation of feature ops, through `prepare`, for new rows, and without Spark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.preparation.pipeline import Prepared, prepare_dataset
from jobs.preparation.transform import apply_spec
from tests.spark.prepared import make_run, read_all
from trainer.features.registry import OPS, Example
from trainer.features.row_encoder import RowEncoder

pytestmark = pytest.mark.thorough

SQL_TYPES = {float: "double", int: "bigint", str: "string"}


@dataclass(frozen=True)
class Documented:
    """An example, and the name of its column in the frame that holds all of them."""

    name: str
    example: Example

    @property
    def kind(self) -> str:
        return "dense" if all(isinstance(value, float) for value in self.example.gives) else "sparse"

    @property
    def rows(self) -> list[Any]:
        return self.example.train if self.example.rows is None else self.example.rows

    @property
    def sql_type(self) -> str:
        (kind,) = {type(value) for value in [*self.example.train, *self.rows] if value is not None}
        return SQL_TYPES[kind]


ALL = [
    Documented(f"{takes}_{name}_{number}", example)
    for (takes, name), op in sorted(OPS.items())
    for number, example in enumerate(op.examples)
]
BY_ROWS = {
    rows: [case for case in ALL if len(case.example.train) == rows]
    for rows in {len(case.example.train) for case in ALL}
}


def frame_of(spark: SparkSession, cases: Sequence[Documented], columns: Sequence[list[Any]]) -> DataFrame:
    """Return a frame with a column for each case; short ones go on with their last value."""
    height = max(map(len, columns))
    full = [column + column[-1:] * (height - len(column)) for column in columns]
    rows = [(row, row % 2, *values) for row, values in enumerate(zip(*full, strict=True))]
    fields = ", ".join(f"{case.name} {case.sql_type}" for case in cases)
    return spark.createDataFrame(rows, f"row bigint, label bigint, {fields}")


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Prepared]:
    """Data sets of all examples, by their training rows."""
    made = {}
    for rows, cases in BY_ROWS.items():
        groups: dict[str, list[dict[str, Any]]] = {"dense": [], "sparse": []}
        for case in cases:
            ops = case.example.op if isinstance(case.example.op, list) else [case.example.op]
            groups[case.kind].append({"columns": case.name, "ops": ops})
        run = make_run(data={"keep": ["row"], "split": {"fractions": [1.0, 0.0, 0.0]}}, **groups)
        frame = frame_of(spark, cases, [case.example.train for case in cases])
        made[rows] = prepare_dataset(run, tmp_path_factory.mktemp("ops") / "data", frame=frame, spark=spark)
    return made


@pytest.fixture(scope="module")
def written(spark: SparkSession, prepared: dict[int, Prepared]) -> dict[str, list[Any]]:
    """What Spark makes of the rows of each example: from `prepare`, or by the spec for rows of its own."""
    columns: dict[str, list[Any]] = {}
    for rows, cases in BY_ROWS.items():
        trained = read_all(prepared[rows].path, "row")
        columns |= {case.name: trained[case.name].tolist() for case in cases}
        others = [case for case in cases if case.example.rows is not None]
        if others:
            frame = frame_of(spark, cases, [case.rows for case in cases])
            made = apply_spec(frame, prepared[rows].manifest.spec, prepared[rows].path, spark, keep=["row"])
            scored = made.toPandas().sort_values("keep.row")
            columns |= {case.name: scored[case.name].tolist()[: len(case.rows)] for case in others}
    return columns


def check(made: list[Any], case: Documented) -> None:
    if case.kind == "dense":
        assert made == pytest.approx(case.example.gives, rel=1e-6, abs=1e-6)
    else:
        assert [list(ids) if hasattr(ids, "__len__") else ids for ids in made] == case.example.gives


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_example_gives_what_the_documentation_says(case: Documented, written: dict[str, list[Any]]) -> None:
    check(written[case.name], case)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_example_gives_the_same_without_spark(case: Documented, prepared: dict[int, Prepared]) -> None:
    data = prepared[len(case.example.train)]
    encoder = RowEncoder.load(data.manifest.spec, data.path, [case.name])
    made = encoder.encode_rows([{case.name: value} for value in case.rows])[case.name]
    check(made.to_pylist(), case)
    alone = [encoder.encode_rows([{case.name: value}])[case.name] for value in case.rows]
    assert pa.concat_arrays(alone) == made


def test_every_op_has_an_example() -> None:
    assert {(case.name.rsplit("_", 1)[0]) for case in ALL} == {f"{takes}_{name}" for takes, name in OPS}


def test_vocabularies_are_beside_the_spec(prepared: dict[int, Prepared]) -> None:
    folders = [
        Path(data.path) / feature.vocabulary
        for data in prepared.values()
        for feature in data.manifest.spec.features
        if feature.vocabulary
    ]
    assert folders
    assert all(folder.is_dir() for folder in folders)
