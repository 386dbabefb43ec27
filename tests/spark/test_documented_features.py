"""Every documented example of features made of several columns or rows, by `prepare` and for new rows."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.preparation.pipeline import Prepared, prepare_dataset
from jobs.preparation.transform import apply_spec
from tests.docs.pages import ROOT, blocks
from tests.spark.prepared import make_run, read_all
from trainer.config.features import SOURCES
from trainer.features.made_examples import EVENTS, MADE_EXAMPLES, NEW_EVENTS, MadeExample
from trainer.features.row_encoder import RowEncoder

pytestmark = pytest.mark.thorough

ALL = {
    f"{key}_{number}": example
    for key, examples in MADE_EXAMPLES.items()
    for number, example in enumerate(examples)
}
CASES = [pytest.param(name, example, id=name) for name, example in ALL.items()]


def frame_of(spark: SparkSession, columns: dict[str, list[Any]]) -> DataFrame:
    """Return a frame of some columns, with the number of each row."""
    types = {int: "bigint", float: "double", str: "string"}
    kinds = {name: types[type(values[0])] for name, values in columns.items()}
    rows = list(zip(range(len(next(iter(columns.values())))), *columns.values(), strict=True))
    return spark.createDataFrame(rows, ", ".join(["row bigint", *(f"{n} {k}" for n, k in kinds.items())]))


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The events prepared with the features of all examples."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, example in ALL.items():
        groups.setdefault(example.kind, []).append({"name": name, **example.group})
    run = make_run(data={"keep": ["row"], "split": {"fractions": [1.0, 0.0, 0.0]}}, **groups)
    out = tmp_path_factory.mktemp("made") / "data"
    return prepare_dataset(run, out, frame=frame_of(spark, dict(EVENTS)), spark=spark)


@pytest.fixture(scope="module")
def written(spark: SparkSession, prepared: Prepared) -> pd.DataFrame:
    return read_all(prepared.path, "row")


@pytest.fixture(scope="module")
def scored(spark: SparkSession, prepared: Prepared) -> pd.DataFrame:
    """What the spec makes of rows to be scored, of the examples that are about such rows."""
    names = [name for name, example in ALL.items() if example.scored]
    frame = frame_of(spark, dict(NEW_EVENTS))
    spec = prepared.manifest.spec
    made = apply_spec(frame, spec, prepared.path, spark, features=names, keep=["row"])
    return made.toPandas().set_index("keep.row").sort_index()


def check(made: list[Any], example: MadeExample) -> None:
    if example.kind == "dense":
        assert made == pytest.approx(example.gives, rel=1e-6, abs=1e-6)
    else:
        assert [list(ids) if hasattr(ids, "__len__") else ids for ids in made] == example.gives


@pytest.mark.parametrize(("name", "example"), CASES)
def test_example_gives_what_the_documentation_says(
    name: str, example: MadeExample, written: pd.DataFrame, scored: pd.DataFrame
) -> None:
    check((scored if example.scored else written)[name].tolist(), example)


@pytest.mark.parametrize(("name", "example"), [case for case in CASES if case.id.startswith("cross")])
def test_cross_gives_the_same_without_spark(name: str, example: MadeExample, prepared: Prepared) -> None:
    rows = [dict(zip(EVENTS, values, strict=True)) for values in zip(*EVENTS.values(), strict=True)]
    encoder = RowEncoder.load(prepared.manifest.spec, prepared.path, [name])
    check(encoder.encode_rows(rows)[name].to_pylist(), example)
    assert [encoder.encode_rows([row])[name][0].as_py() for row in rows] == example.gives


def test_everything_that_makes_features_has_an_example_that_runs() -> None:
    of_vectors = [block.text for block in blocks(ROOT / "docs" / "vectors.md") if block.runs]
    assert any('"vectors": {' in text for text in of_vectors)
    assert {"columns", "vectors", *MADE_EXAMPLES} == set(
        SOURCES
    )  # test_documented_ops.py has those of columns
    assert all(key in example.group for key, examples in MADE_EXAMPLES.items() for example in examples)
