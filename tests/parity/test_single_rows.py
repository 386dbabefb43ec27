"""Single rows of real data, encoded without Spark, are exactly what Spark wrote of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.pipeline import prepare_dataset
from tests.parity.plain_scorer import PlainScorer
from tests.spark.prepared import make_run, read_all
from trainer.config import FeatureGroup
from trainer.config.features import SOURCES
from trainer.features.ops import Kind, column_op, entries, resolve_ops
from trainer.features.registry import OPS
from trainer.features.row_encoder import RowEncoder
from trainer.schema import Manifest

SAMPLE = 250
VOCABULARY = [{"vocabulary": {"min_count": 2}}]


@dataclass(frozen=True)
class Case:
    """A data set: how to read it with pandas (all text, missing as None), and what to make of it.

    Half of the values of `looked_up` have a vector.
    """

    name: str
    read: Any
    dense: list[dict[str, Any]]
    sparse: list[dict[str, Any]]
    label: dict[str, Any]
    looked_up: str
    time_formats: dict[str, str] = field(default_factory=dict)


def criteo(root: Path) -> pd.DataFrame:
    names = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]
    return _csv(root / "criteo-10k" / "train_examples.txt", sep="\t", names=names)


def avazu(root: Path) -> pd.DataFrame:
    frame = _csv(root / "avazu-10k" / "avazu-ctr-prediction_train_1w.csv")
    # The sample is of one hour; the file goes on for ten days.
    return frame.assign(hour=[f"1410{21 + n % 10}{n % 24:02}" for n in range(len(frame))])


def taobao(root: Path) -> pd.DataFrame:
    return _csv(root / "taobao-10k" / "taobao_data_sample_1w.csv")


def movielens_1m(root: Path) -> pd.DataFrame:
    folder = root / "ml-1m"
    ratings = _csv(folder / "ratings_no_timestamp.dat", sep="::", names=["user_id", "movie_id", "rating"])
    users = ["user_id", "gender", "age", "occupation", "zip_code"]
    movies = ["movie_id", "title", "genres"]
    joined = ratings.merge(_csv(folder / "users.dat", sep="::", names=users), on="user_id", how="left")
    titles = _csv(folder / "movies.dat", sep="::", names=movies, encoding="latin-1")
    return joined.merge(titles, on="movie_id", how="left")


CASES = [
    Case(
        "criteo",
        criteo,
        [
            {"columns": ["I1", "I2", "I3"], "ops": [{"fill": 0}, {"clip": {"min": 0}}, "log1p"]},
            {"columns": ["I4", "I5"], "ops": [{"fill": "mean"}, {"clip": {"max": 500}}, "standardise"]},
            {"columns": "I6", "ops": [{"fill": "mode"}, {"bucketise": {"quantiles": 5}}]},
            {"columns": "I7", "ops": [{"fill": "median"}, "min_max", {"clip": {"max": 0.5}}]},
            {"columns": "I8", "ops": [{"fill": 0}, {"clip": {"min": 0}}, "log1p", {"round": 1}]},
        ],
        [
            {"columns": "C*", "ops": VOCABULARY},
            {"columns": "C3", "name": "C3_lower", "ops": ["lower", {"hash": 500}]},
            {"columns": "I2", "name": "I2_bucket", "ops": [{"bucketise": [0, 2, 8]}]},
            {"columns": "I9", "name": "I9_tens", "ops": [{"round": -1}, {"vocabulary": {"max_size": 5}}]},
            {"columns": "I3", "name": "I3_filled", "ops": [{"round": 0}, {"fill": 7}, "vocabulary"]},
            {"name": "C1_C2", "cross": ["C1", "C2"], "ops": VOCABULARY},
        ],
        {"column": "label"},
        "C7",
    ),
    Case(
        "avazu",
        avazu,
        [
            {"columns": ["C15", "C16", "banner_pos"], "ops": ["standardise"]},
            {"name": "site_rate", "target_encoding": {"by": "site_id"}},
            {
                "name": "device_rate",
                "target_encoding": {"by": ["app_id", "device_model"], "smoothing": 3},
                "ops": ["min_max"],
            },
            {"columns": "hour", "name": "hour_of_day", "ops": [{"hour": "America/New_York"}]},
            {"columns": "hour", "name": "days", "ops": [{"age": "2014-11-01"}, "standardise"]},
        ],
        [
            {"columns": ["site_*", "app_*", "C1", "C14", "C17", "C18", "C19", "C2*"], "ops": VOCABULARY},
            {"columns": ["device_*"], "ops": [{"hash": {"num_buckets": 1000, "seed": 7}}]},
            {"columns": "banner_pos", "name": "banner_id"},
            {"columns": "device_ip", "name": "ip", "ops": {"vocabulary": {"oov_buckets": 7, "min_count": 3}}},
            {"columns": "app_id", "name": "app_as_site", "table": "site_id"},
            {"columns": "hour", "name": "hour_id", "ops": VOCABULARY},
            {"name": "hour_banner", "cross": ["hour", "banner_pos"], "ops": VOCABULARY},
        ],
        {"column": "click"},
        "device_model",
        {"hour": "%y%m%d%H"},
    ),
    Case(
        "taobao",
        taobao,
        [
            {"columns": "price", "ops": [{"fill": "median"}, "log1p", "standardise"]},
            {"columns": "time_stamp", "name": "hour", "ops": [{"hour": "Asia/Shanghai"}]},
            {"columns": "time_stamp", "name": "weekday", "ops": ["weekday", "standardise"]},
            {"columns": "time_stamp", "name": "age", "ops": [{"age": {"at": "2017-05-14", "unit": "hours"}}]},
            {"columns": "time_stamp", "name": "holiday", "ops": [{"holiday": ["2017-05-07", "2017-05-12"]}]},
        ],
        [
            {"columns": ["adgroup_id", "cate_id", "brand", "pid", "*_level"], "ops": VOCABULARY},
            {"columns": "user_id", "ops": [{"hash": 5000}]},
            {"columns": "user_id", "name": "any_user", "ops": [{"hash": "unbounded"}]},
            {"columns": "tag_category_list", "ops": [{"split": "|"}, "vocabulary"]},
            {"columns": "tag_brand_list", "ops": [{"fill": "none"}, {"split": "|"}, {"hash": 3000}]},
            {"columns": "time_stamp", "name": "day", "ops": [{"day_of_month": "Asia/Tokyo"}, "vocabulary"]},
            {"columns": "time_stamp", "name": "month", "ops": ["month"]},
            {"columns": "time_stamp", "name": "early_hour", "ops": ["milliseconds", "hour", {"hash": 7}]},
            {"columns": "pid", "name": "pid_words", "ops": ["words", "vocabulary"]},
            {
                "columns": "pvalue_level",
                "name": "pvalue",
                "ops": [{"vocabulary": {"missing": "most_frequent"}}],
            },
            {
                "columns": "tag_brand_list",
                "name": "last_brands",
                "ops": [{"split": "|"}, {"truncate": {"max_length": 2, "keep": "last"}}, {"hash": 300}],
            },
        ],
        {"column": "clk"},
        "brand",
    ),
    Case(
        "movielens_1m",
        movielens_1m,
        [],
        [
            {"columns": ["user_id", "movie_id", "gender", "occupation", "zip_code"], "ops": VOCABULARY},
            {"columns": "genres", "ops": [{"split": "|"}, "vocabulary"]},
            {"columns": "title", "ops": ["words", {"truncate": 4}, {"vocabulary": {"min_count": 3}}]},
        ],
        {"column": "rating", "positive_at_least": 4},
        "movie_id",
    ),
]  # fmt: skip


def _csv(path: Path, sep: str = ",", **options: Any) -> pd.DataFrame:
    engine = "python" if len(sep) > 1 else "c"
    frame = pd.read_csv(path, sep=sep, dtype=str, keep_default_na=False, engine=engine, **options)
    return frame.replace({"": None, "NULL": None})


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(c, marks=pytest.mark.slow if c.name == "movielens_1m" else (), id=c.name) for c in CASES
    ],
)
def rows(
    request: pytest.FixtureRequest,
    spark: SparkSession,
    shared_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[pd.DataFrame, pd.DataFrame, Manifest, Path]:
    """Return some raw rows, the same rows prepared, the manifest, and the data set's folder."""
    case: Case = request.param
    folder = tmp_path_factory.mktemp(case.name)
    raw = case.read(shared_data).assign(row=lambda frame: np.arange(len(frame)))
    raw.to_parquet(folder / "raw.parquet", row_group_size=100_000)
    data = {"root": str(folder), "source": {"path": "raw.parquet"}, "label": case.label, "keep": ["row"]}
    data["time_formats"] = case.time_formats
    known = sorted(raw[case.looked_up].dropna().unique())[::2]
    made = pd.DataFrame({"id": known, "vector": [[float(n), 1.0] for n in range(len(known))]})
    made.to_parquet(folder / "vectors.parquet")
    source = {"path": "vectors.parquet"}
    section = {"source": source, "on": case.looked_up, "id": "id", "column": "vector"}
    dense = [*case.dense, {"name": "vector", "vectors": section}]
    run = make_run(name=case.name, data=data, dense=dense, sparse=case.sparse)
    path = prepare_dataset(run, folder / "data", spark=spark).path
    chosen = raw.sample(SAMPLE, random_state=1).sort_values("row")
    prepared = read_all(path, "row").loc[chosen["row"]]
    assert set(prepared["split"]) == {"train", "valid", "test"}
    return chosen, prepared, Manifest.load(path), path


def test_one_row_at_a_time_gives_the_written_tensors(
    rows: tuple[pd.DataFrame, pd.DataFrame, Manifest, Path],
) -> None:
    raw, prepared, manifest, path = rows
    features = [feature for feature in manifest.spec.features if feature.derived is None]
    encoder = RowEncoder.load(manifest.spec, path, [feature.name for feature in features])
    for record, (_, expected) in zip(raw.to_dict("records"), prepared.iterrows(), strict=True):
        found = encoder.encode_rows([record])
        for feature in features:
            _assert_equal(found[feature.name], expected[feature.name], feature.name)


def test_a_scorer_in_plain_python_gives_the_written_tensors(
    rows: tuple[pd.DataFrame, pd.DataFrame, Manifest, Path],
) -> None:
    raw, prepared, manifest, path = rows
    scorer = PlainScorer(manifest.spec, path)
    for record, (_, expected) in zip(raw.to_dict("records"), prepared.iterrows(), strict=True):
        found = scorer.inputs(record)
        for feature in manifest.spec.features:
            value, written = found[feature.name], expected[feature.name]
            if feature.derived is not None and expected["split"] == "train":
                continue  # a training row's encoding leaves out its own fold, which no scorer does
            if feature.kind == "dense":
                # The two logarithms may round apart in the last of a float64's digits.
                assert abs(value - written) <= np.spacing(np.float32(abs(written))), feature.name
            elif feature.is_list:
                assert value == list(written), feature.name
            else:
                assert value == written, feature.name


def test_every_op_is_applied_to_real_data() -> None:
    groups: list[tuple[Kind, dict[str, Any]]] = [("dense", group) for case in CASES for group in case.dense]
    groups += [("sparse", group) for case in CASES for group in case.sparse]
    applied: set[tuple[str, str]] = set()
    for kind, group in groups:
        checked = FeatureGroup.model_validate(group)
        chain = resolve_ops(checked.ops, kind, "ops", column_op(checked))
        applied |= {(entry.takes, entry.name) for _, entry in entries(chain, kind)}
    assert applied == set(OPS)
    keys = {key for _, group in groups for key in group}
    # Histories and counts of earlier rows need other rows; tests/spark/derived_rows.py has their references.
    assert set(SOURCES) - keys == {"vectors", "history", "earlier"}


def _assert_equal(found: pa.Array, written: Any, feature: str) -> None:
    assert len(found) == 1
    if pa.types.is_list(found.type):
        assert found[0].as_py() == list(written), feature
    elif pa.types.is_floating(found.type):
        assert found.to_numpy().tobytes() == np.float32(written).tobytes(), feature
    else:
        assert found[0].as_py() == written, feature
