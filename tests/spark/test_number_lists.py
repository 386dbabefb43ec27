"""Lists of numbers in the rows: prepared, read, scored and reported as plain columns of the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation import parquet_scan, pipeline, rows
from jobs.preparation.appending import append_rows
from jobs.preparation.pipeline import Prepared, prepare_dataset, write_inputs
from jobs.preparation.transform import apply_spec
from tests.spark.prepared import make_run, read_all
from tests.spark.test_vectors import read
from trainer.config import RunConfig
from trainer.errors import ConfigError, DataError
from trainer.features.row_encoder import RowEncoder
from trainer.reporting.data import write_data_report
from trainer.schema import Manifest

ROWS, DIM = 300, 4
LISTS = [
    {"columns": "about", "dim": DIM},
    {"columns": "text", "dim": 2, "delimiter": ";", "ops": [{"fill": -1}, {"clip": {"max": 2}}]},
    {"columns": "about", "name": "rounded", "dim": DIM, "ops": [{"round": 1}]},
]
"""Where the lists stand in the config: between two plain columns, `x` and `y`."""


def run_of(*dense: dict[str, Any], **data: Any) -> RunConfig:
    groups = [{"columns": "x"}, *(dense or LISTS), {"columns": "y"}]
    data = {"keep": ["row"], "split": {"fractions": [0.6, 0.2, 0.2]}, **data}
    return make_run(data=data, dense=groups, sparse=[{"columns": "item", "ops": "vocabulary"}])


def frame_of(seed: int = 4, first: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(ROWS, 2)).round(3)
    texts: list[str | None] = [f"{a}; {b}" for a, b in numbers]
    texts[5], texts[6], texts[7], texts[8] = None, "", " ;0.5", "7;NaN"
    return pd.DataFrame(
        {
            "row": np.arange(first, first + ROWS),
            "label": random.integers(0, 2, ROWS),
            "x": random.normal(size=ROWS),
            "y": random.normal(size=ROWS),
            "about": random.normal(size=(ROWS, DIM)).tolist(),
            "text": texts,
            "item": random.integers(0, 9, ROWS),
        }
    )


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    return frame_of()


def wanted(raw: pd.DataFrame) -> np.ndarray:
    """Return the dense input of every row, number by number."""
    made = []
    for row in raw.to_dict("records"):
        pieces = (row["text"] or "").split(";") if row["text"] else ["", ""]
        text = [-1.0 if not p.strip() or p == "NaN" else min(float(p), 2.0) for p in pieces]
        about = list(row["about"])
        made.append([row["x"], *about, *text, *(np.round(x, 1) + 0.0 for x in about), row["y"]])
    return np.array(made).astype(np.float32)


def prepared_of(spark: SparkSession, raw: pd.DataFrame, run: RunConfig, out: Path) -> Prepared:
    return prepare_dataset(run, out, frame=spark.createDataFrame(raw), spark=spark)


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, raw: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared_of(spark, raw, run_of(), tmp_path_factory.mktemp("lists") / "data")


def dense_rows(folder: Path, manifest: Manifest) -> pd.DataFrame:
    """Return what batches hold, by the kept column `row`."""
    frames = []
    for split in ("train", "valid", "test"):
        files = [folder / part.path for part in manifest.split(split).files]
        kept = pd.concat([pd.read_parquet(file, columns=["keep.row"]) for file in files], ignore_index=True)
        numbers, dense = read(folder, manifest, split)
        frames.append(pd.DataFrame(dense, index=kept["keep.row"].to_numpy()[numbers]))
    return pd.concat(frames).sort_index()


def test_batches_hold_every_number_in_its_place(prepared: Prepared, raw: pd.DataFrame) -> None:
    manifest = Manifest.load(prepared.path)
    assert [(f.name, f.dim) for f in manifest.spec.dense] == [
        ("x", None), ("about", DIM), ("text", 2), ("rounded", DIM), ("y", None),
    ]  # fmt: skip
    assert manifest.spec.dense_width == 2 + DIM + 2 + DIM
    found = dense_rows(prepared.path, manifest)
    assert found.index.tolist() == list(range(ROWS))
    np.testing.assert_array_equal(found.to_numpy(), wanted(raw))


def test_the_prepared_column_is_a_list_as_long_as_asked_for(prepared: Prepared, raw: pd.DataFrame) -> None:
    rows = read_all(prepared.path, "row")
    np.testing.assert_array_equal(np.stack(rows["about"]), np.stack(raw["about"]).astype(np.float32))
    assert np.stack(rows["text"]).dtype == np.float32


@pytest.mark.parametrize("small", [False, True])
def test_files_read_by_tasks_give_the_same_data_set(
    spark: SparkSession,
    raw: pd.DataFrame,
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small: bool,
) -> None:
    scans: list[Any] = []

    def watched(*args: Any) -> Any:
        scans.append(parquet_scan.parquet_scan(*args))
        return scans[-1]

    monkeypatch.setattr(pipeline, "parquet_scan", watched)
    if small:
        monkeypatch.setattr(rows, "_BYTES_AT_ONCE", 8 * (2 * DIM + 2) * 17)
    raw.to_parquet(tmp_path / "raw.parquet", row_group_size=100)
    run = run_of(root=str(tmp_path), source={"path": "raw.parquet"})
    made = prepare_dataset(run, tmp_path / "data", spark=spark)
    assert scans[0] is not None
    assert scans[0].at_once == (17 if small else rows.ROWS_AT_ONCE)
    assert made.manifest.spec == prepared.manifest.spec
    assert made.manifest.statistics == prepared.manifest.statistics
    a, b = read_all(made.path, "row"), read_all(prepared.path, "row")
    assert a["split"].tolist() == b["split"].tolist()
    np.testing.assert_array_equal(np.stack(a["text"]), np.stack(b["text"]))


def test_fewer_rows_come_at_once_where_lists_are_long(
    spark: SparkSession,
    raw: pd.DataFrame,
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows, "_BYTES_AT_ONCE", 8 * (2 * DIM + 2) * 17)
    sizes: list[int] = []
    set_to = spark.conf.get("spark.sql.execution.arrow.maxRecordsPerBatch")
    made = pipeline.handed_over
    monkeypatch.setattr(pipeline, "handed_over", lambda features: sizes.append(made(features)) or sizes[-1])
    again = prepared_of(spark, raw, run_of(), tmp_path / "data")
    assert sizes == [17]
    assert again.manifest.spec == prepared.manifest.spec
    assert spark.conf.get("spark.sql.execution.arrow.maxRecordsPerBatch") == set_to


def test_json_and_csv_hold_lists_too(
    spark: SparkSession, raw: pd.DataFrame, prepared: Prepared, tmp_path: Path
) -> None:
    raw.to_json(tmp_path / "raw.json", orient="records", lines=True, double_precision=15)
    run = run_of(root=str(tmp_path), source={"path": "raw.json"})
    made = prepare_dataset(run, tmp_path / "data", spark=spark)
    np.testing.assert_allclose(
        dense_rows(made.path, made.manifest).to_numpy(), wanted(raw), rtol=0, atol=1e-6
    )
    texts = raw.drop(columns="about").assign(about=[" ".join(map(repr, map(float, a))) for a in raw["about"]])
    texts.to_csv(tmp_path / "raw.csv", index=False)
    lists = [{**group, "delimiter": group.get("delimiter", " ")} for group in LISTS]
    run = run_of(*lists, root=str(tmp_path), source={"path": "raw.csv", "header": True})
    made = prepare_dataset(run, tmp_path / "csv", spark=spark)
    found = dense_rows(made.path, made.manifest)
    found.index = found.index.astype(int)
    np.testing.assert_array_equal(found.sort_index().to_numpy(), wanted(raw))


def test_single_rows_and_rows_to_be_scored_get_the_same_numbers(
    spark: SparkSession, raw: pd.DataFrame, prepared: Prepared, tmp_path: Path
) -> None:
    spec, written = prepared.manifest.spec, read_all(prepared.path, "row")
    encoder = RowEncoder.load(spec, prepared.path)
    for record, (_, expected) in zip(raw.to_dict("records"), written.iterrows(), strict=True):
        found = encoder.encode_rows([record])
        for name in ("about", "text", "rounded"):
            assert found[name][0].as_py() == expected[name].tolist()
    made = apply_spec(spark.createDataFrame(raw), spec, prepared.path, spark, keep=["row"])
    inputs = write_inputs(made, spec, tmp_path / "inputs", spark)
    rows_found, dense = read(tmp_path / "inputs", inputs, "test")
    files = [tmp_path / "inputs" / part.path for part in inputs.split("test").files]
    kept = pd.concat([pd.read_parquet(file, columns=["keep.row"]) for file in files], ignore_index=True)
    found = pd.DataFrame(dense, index=kept["keep.row"].to_numpy()[rows_found]).sort_index()
    np.testing.assert_array_equal(found.to_numpy(), wanted(raw))
    short = raw.head(3).assign(about=[[1.0] * DIM, [1.0], [1.0] * DIM])
    with pytest.raises(Exception, match=r"'about' needs lists of 4 numbers.*\"got\": 1"):
        apply_spec(spark.createDataFrame(short), spec, prepared.path, spark).collect()


def test_statistics_and_reports_are_of_all_numbers(prepared: Prepared, raw: pd.DataFrame) -> None:
    rows = read_all(prepared.path, "row")
    train = rows[rows["split"] == "train"]
    for name in ("about", "text"):
        seen, numbers = prepared.manifest.statistics[name], np.stack(train[name]).astype(np.float64)
        assert (seen.min, seen.max) == (numbers.min(), numbers.max())
        assert seen.mean == pytest.approx(numbers.mean())
        assert seen.std == pytest.approx(numbers.std())
    missing = [row for row in (5, 6, 7, 8) if row in train.index]
    assert prepared.manifest.statistics["text"].null_share == pytest.approx(len(missing) / len(train))
    said = json.loads((prepared.path / "report.json").read_text())["features"]["about"]
    assert (said["kind"], said["dim"]) == ("dense", DIM)
    assert f"about (lists of {DIM})" in prepared.report_text
    page = write_data_report(prepared.path).path.read_text(encoding="utf-8")
    assert f"lists of {DIM}, missing" in page


@pytest.mark.parametrize("mode", ["frozen", "grow"])
def test_a_day_is_appended_with_its_lists(
    spark: SparkSession, raw: pd.DataFrame, tmp_path: Path, mode: Any
) -> None:
    run, later = run_of(), frame_of(seed=5, first=ROWS)
    prepared_of(spark, raw, run, tmp_path / "data")
    made = append_rows(run, tmp_path / "data", mode, frame=spark.createDataFrame(later), spark=spark)
    found = dense_rows(made.path, made.manifest)
    np.testing.assert_array_equal(found.to_numpy(), np.concatenate([wanted(raw), wanted(later)]))


def changed(raw: pd.DataFrame, column: str, places: list[int], value: Any) -> pd.DataFrame:
    values = list(raw[column])
    for place in places:
        values[place] = value
    return raw.assign(**{column: values})


NONE, NAN, INF = [0.5, None, 1.0, 2.0], [0.5, np.nan, 1.0, 2.0], [0.5, np.inf, -np.inf, 2.0]
BAD_ROWS = [
    ("short", "about", [0.5, 1.0], ["2 row(s) whose list has another length", "2 numbers", "4 (`dim`)"]),
    ("long", "about", [0.5] * 9, ["2 row(s) whose list", "9 numbers", "dim: 9"]),
    ("empty", "about", [], ["2 row(s) whose list", "0 numbers"]),
    ("null", "about", None, ["2 row(s) where the list, or a number in it, is missing", "fill: 0"]),
    ("null inside", "about", NONE, ["2 row(s) where the list, or a number in it, is missing"]),
    ("nan inside", "about", NAN, ["2 row(s) where the list, or a number in it, is missing"]),
    ("infinite", "about", INF, ["2 row(s) with infinite numbers", "-inf", "clip"]),
    ("too large", "about", [1e300, 0.0, 0.0, 0.0], ["2 row(s) with infinite numbers", "1e+300"]),
    ("text", "text", "1;two", ["2 value(s) that are no numbers", "1;two"]),
    ("text too long", "text", "1;2;3", ["2 row(s) whose list has another length", "3 numbers", "2 (`dim`)"]),
]


@pytest.mark.parametrize(("_what", "column", "value", "told"), BAD_ROWS, ids=[case[0] for case in BAD_ROWS])
def test_bad_lists_are_counted_and_named(
    spark: SparkSession,
    raw: pd.DataFrame,
    tmp_path: Path,
    _what: str,
    column: str,
    value: Any,
    told: list[str],
) -> None:
    with pytest.raises(DataError) as error:
        prepared_of(spark, changed(raw, column, [3, 40], value), run_of(), tmp_path / "data")
    place = f"features.dense.{1 if column == 'about' else 2}: column {column!r}"
    assert all(part in str(error.value) for part in [place, *told]), str(error.value)
    assert not (tmp_path / "data").exists()


BAD_CONFIGS = [
    ({"dense": [{"columns": "about"}]}, ["column 'about' holds no numbers", "array<double>", "dim: 16"]),
    ({"dense": [{"columns": "text", "dim": 2}]}, ["no lists of numbers", "string", "delimiter: ','"]),
    ({"dense": [{"columns": "x", "dim": 2}]}, ["no lists of numbers", "double"]),
    ({"dense": [{"columns": "about", "dim": 4, "ops": ["log1p", "min_max"]}]}, ["`min_max` fits one number"]),
    ({"sparse": [{"columns": "about", "dim": 4}]}, ["dense inputs", "features.sparse.0.dim"]),
    ({"dense": [{"columns": ["about", "x"], "dim": 4}]}, ["column 'x' holds no lists"]),
    (
        {"dense": [{"columns": "about", "dim": 4, "ops": ["log1p"]}]},
        ["that `log1p` cannot take", "clip: {min: 0}"],
    ),
]


@pytest.mark.parametrize(("features", "told"), BAD_CONFIGS)
def test_a_bad_config_is_named(
    spark: SparkSession, raw: pd.DataFrame, tmp_path: Path, features: dict[str, Any], told: list[str]
) -> None:
    frame = changed(raw, "about", [3], [-5.0] * DIM)
    with pytest.raises((ConfigError, DataError)) as error:
        prepared_of(spark, frame, make_run(**features), tmp_path / "data")
    assert all(part in str(error.value) for part in told), str(error.value)
