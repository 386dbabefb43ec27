"""Precomputed vectors: looked up by id as a pandas merge would, whatever Spark does with the source."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs import prepare
from jobs.preparation import joined_ids, vectors
from jobs.preparation.appending import append_rows
from jobs.preparation.pipeline import Prepared, prepare_dataset, write_inputs
from jobs.preparation.transform import apply_spec
from tests.spark.prepared import make_run, read_all, read_vocabulary
from trainer.config import RunConfig
from trainer.data import open_reader
from trainer.errors import ConfigError, DataError
from trainer.features.row_encoder import RowEncoder
from trainer.schema import Manifest

pytestmark = pytest.mark.thorough

ROWS, ITEMS, DIM = 400, 60, 3
NUMBERS = [f"v{n}" for n in range(DIM)]


def poster(**changes: Any) -> dict[str, Any]:
    return {
        "name": "poster",
        "vectors": {
            "source": {"path": "posters"},
            "on": "item",
            "id": "id",
            "column": "embedding",
            **changes,
        },
    }


def run_of(root: Path, *dense: dict[str, Any]) -> RunConfig:
    return make_run(
        data={"root": str(root), "keep": ["row"], "split": {"fractions": [0.6, 0.2, 0.2]}},
        dense=[{"columns": "x"}, *(dense or (poster(),))],
        sparse=[{"columns": "item", "ops": "vocabulary"}],
    )


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    """Return rows whose items are floats, as pandas has them where some are missing; ten are unknown."""
    random = np.random.default_rng(3)
    item = random.integers(0, ITEMS + 10, ROWS).astype(float)
    item[random.random(ROWS) < 0.1] = np.nan
    return pd.DataFrame(
        {
            "row": np.arange(ROWS),
            "label": random.integers(0, 2, ROWS),
            "x": random.normal(size=ROWS),
            "item": item,
        }
    )


def posters(first: int = 0, last: int = ITEMS) -> pd.DataFrame:
    random = np.random.default_rng(8)
    made = [random.normal(size=DIM) for _ in range(last)]
    return pd.DataFrame({"id": [str(n) for n in range(first, last)], "embedding": made[first:]})


def write(folder: Path, frame: pd.DataFrame, parts: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(parts):
        frame.iloc[number::parts].to_parquet(folder / f"{len(list(folder.iterdir()))}.parquet")


def wanted(raw: pd.DataFrame, source: pd.DataFrame) -> np.ndarray:
    """Return the vector of every row, by a plain merge."""
    table = pd.DataFrame(source["embedding"].tolist(), columns=NUMBERS, index=source["id"].astype(float))
    found = raw[["item"]].merge(table, left_on="item", right_index=True, how="left")
    return found.sort_index()[NUMBERS].fillna(0.0).to_numpy(np.float32)


def read(folder: Path, manifest: Manifest, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return row numbers and dense inputs of a split, in its order."""
    reader = open_reader(
        folder, manifest, split, global_batch_size=32, num_lanes=4, rank=0, world_size=1, seed=1,
        shuffle=False, tail="pad",
    )  # fmt: skip
    batches = list(reader.batches(0))
    rows = np.concatenate([batch.rows_B.numpy() for batch in batches])
    dense = np.concatenate([batch.dense_BF.numpy() for batch in batches])
    assert (dense[rows < 0] == 0).all()
    order = np.argsort(rows, kind="stable")
    order = order[rows[order] >= 0]
    return rows[order], dense[order]


def looked_up(prepared: Prepared) -> pd.DataFrame:
    """Return the dense inputs of all rows by the kept column `row`."""
    frames = []
    for split in ("train", "valid", "test"):
        files = [prepared.path / part.path for part in prepared.manifest.split(split).files]
        kept = pd.concat([pd.read_parquet(file, columns=["keep.row"]) for file in files], ignore_index=True)
        rows, dense = read(prepared.path, prepared.manifest, split)
        frames.append(pd.DataFrame(dense, index=kept["keep.row"].to_numpy()[rows]))
    return pd.concat(frames).sort_index()


def prepared_of(spark: SparkSession, raw: pd.DataFrame, run: RunConfig, out: Path) -> Prepared:
    return prepare_dataset(run, out, frame=spark.createDataFrame(raw), spark=spark)


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, raw: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root = tmp_path_factory.mktemp("vectors")
    write(root / "posters", posters(), parts=3)
    return prepared_of(spark, raw, run_of(root), root / "data")


def test_every_row_gets_the_vector_of_a_plain_merge(prepared: Prepared, raw: pd.DataFrame) -> None:
    found = looked_up(prepared)
    assert found.index.tolist() == list(range(ROWS))
    assert found.shape[1] == prepared.manifest.spec.dense_width == 1 + DIM
    np.testing.assert_array_equal(found[0], raw["x"].astype(np.float32))
    expected = wanted(raw, posters())
    assert ((expected == 0).all(axis=1)).sum() > 50
    np.testing.assert_array_equal(found.iloc[:, 1:].to_numpy(), expected)


def test_ids_are_numbered_in_the_order_of_their_texts(prepared: Prepared) -> None:
    (feature,) = prepared.manifest.spec.vectors
    assert feature.vectors is not None
    stored = read_vocabulary(prepared.path, "poster")
    source = posters().sort_values("id")
    assert stored["value"].tolist() == source["id"].tolist()
    assert stored["id"].tolist() == list(range(2, 2 + ITEMS))
    assert feature.num_embeddings == 2 + ITEMS
    (part,) = (prepared.path / feature.vectors.folder).iterdir()
    saved = np.load(part)
    assert saved.dtype == np.float32
    np.testing.assert_array_equal(saved, np.stack(source["embedding"]).astype(np.float32))
    assert [p.name for p in prepared.path.iterdir() if p.name.startswith("_")] == []


def test_statistics_tell_missing_and_unknown_ids_apart(prepared: Prepared, raw: pd.DataFrame) -> None:
    rows = read_all(prepared.path, "row")
    item, train = raw["item"], (rows["split"] == "train").to_numpy()
    seen = prepared.manifest.statistics["poster"]
    assert seen.ids == ITEMS
    assert seen.null_share == pytest.approx(item[train].isna().mean())
    assert seen.train_oov_share == pytest.approx((item[train].dropna() >= ITEMS).mean())
    assert seen.oov_share == pytest.approx((item[~train].dropna() >= ITEMS).mean())
    said = json.loads((prepared.path / "report.json").read_text())["features"]["poster"]
    assert (said["kind"], said["dim"], said["ids"]) == ("vector", DIM, ITEMS)
    line = next(line for line in prepared.report_text.splitlines() if line.startswith("poster"))
    assert line.split()[1:4] == ["item", str(DIM), str(ITEMS)]


def test_the_source_s_files_and_order_change_nothing(
    spark: SparkSession,
    raw: pd.DataFrame,
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "posters", posters().sample(frac=1.0, random_state=2), parts=5)
    monkeypatch.setattr(vectors, "_PART_BYTES", 16 * (4 * DIM + vectors._ID_BYTES))
    monkeypatch.setattr(vectors, "_BATCH_BYTES", 7 * 4 * DIM)
    again = prepared_of(spark, raw, run_of(tmp_path), tmp_path / "data")
    assert again.manifest.spec == prepared.manifest.spec
    parts = sorted((again.path / "vectors" / "poster").iterdir())
    assert len(parts) > 2
    assert [p.name for p in parts] == [f"part-{n:05d}.npy" for n in range(len(parts))]
    saved = np.concatenate([np.load(part) for part in parts])
    np.testing.assert_array_equal(saved, np.stack(posters().sort_values("id")["embedding"]).astype("f4"))
    pd.testing.assert_frame_equal(looked_up(again), looked_up(prepared))


def test_another_vector_or_another_id_is_another_spec(
    spark: SparkSession, raw: pd.DataFrame, prepared: Prepared, tmp_path: Path
) -> None:
    other = posters()
    other.at[5, "embedding"] = other["embedding"][5] + 1e-4
    write(tmp_path / "posters", other)
    changed = prepared_of(spark, raw, run_of(tmp_path), tmp_path / "data").manifest
    assert changed.spec.hash != prepared.manifest.spec.hash
    assert changed.config_hash == prepared.manifest.config_hash
    (line,) = changed.spec.differences(prepared.manifest.spec)
    assert line.startswith("feature 'poster': vectors")


def test_features_of_one_source_share_its_vectors(
    spark: SparkSession, raw: pd.DataFrame, tmp_path: Path
) -> None:
    write(tmp_path / "posters", posters())
    frame = raw.assign(other=raw["item"].iloc[::-1].to_numpy())
    second = {**poster(on="other"), "name": "other poster"}
    made = prepared_of(spark, frame, run_of(tmp_path, poster(), second), tmp_path / "data")
    one, two = made.manifest.spec.vectors
    assert (one.vectors, one.vocabulary) == (two.vectors, two.vocabulary)
    assert [p.name for p in (made.path / "vectors").iterdir()] == ["poster"]
    found = looked_up(made).to_numpy()
    np.testing.assert_array_equal(found[:, 1 : 1 + DIM], wanted(frame, posters()))
    np.testing.assert_array_equal(found[:, 1 + DIM :], wanted(frame.assign(item=frame["other"]), posters()))


def test_single_rows_and_joined_ids_give_the_same_numbers(
    spark: SparkSession, raw: pd.DataFrame, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, rows = prepared.manifest.spec, read_all(prepared.path, "row")["poster"]
    encoder = RowEncoder.load(spec, prepared.path, ["poster"])
    for item in (7, 7.0, "7"):
        assert encoder.encode_rows([{"item": item}])["poster"].to_pylist() == [
            read_vocabulary(prepared.path, "poster").set_index("value")["id"]["7"]
        ]
    single = [encoder.encode_rows([{"item": value}])["poster"][0].as_py() for value in raw["item"]]
    assert single == rows.tolist()
    monkeypatch.setattr(joined_ids, "HELD_BYTES", 0)
    made = apply_spec(spark.createDataFrame(raw), spec, prepared.path, spark, keep=["row"]).toPandas()
    assert made.set_index("keep.row").sort_index()["poster"].tolist() == rows.tolist()


def test_frequent_ids_of_vectors_are_not_joined(
    spark: SparkSession, raw: pd.DataFrame, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Most rows ask for the last id but one in the order of texts, or for one that has no vector.
    most = raw["item"].where(raw["row"] % 4 > 1, np.where(raw["row"] % 2 == 0, 8.0, 999.0))
    frame, spec, keys = raw.assign(item=most), prepared.manifest.spec, []
    encoder = RowEncoder.load(spec, prepared.path, ["poster"])
    expected = [encoder.encode_rows([{"item": value}])["poster"][0].as_py() for value in frame["item"]]

    def joined(rows: DataFrame, feature: Any, key: str, *others: Any) -> DataFrame:
        keys.extend(row[key] for row in rows.select(key).collect())
        return join(rows, feature, key, *others)

    join = joined_ids._joined
    monkeypatch.setattr(joined_ids, "_joined", joined)
    monkeypatch.setattr(joined_ids, "HELD_BYTES", 0)
    monkeypatch.setattr(joined_ids, "_SAMPLED_SHARE", 0.5)
    monkeypatch.setattr(joined_ids, "_HOT_SAMPLED", ROWS // 16)
    made = apply_spec(
        spark.createDataFrame(frame), spec, prepared.path, spark, features=["poster"], keep=["row"]
    ).toPandas()
    assert made.set_index("keep.row").sort_index()["poster"].tolist() == expected
    assert len(keys) == ROWS
    rest = [key for key in keys if key is not None and not key.startswith(joined_ids._SALT)]
    assert 0 < len(rest) <= ROWS // 2
    assert not {"8", "999"} & set(rest)
    assert max(keys.count(key) for key in set(keys) if key is not None) < ROWS // 16


@pytest.mark.parametrize(
    ("ids", "items"),
    [
        ([0.5, 2.0, 12345678.5, 1e-7], [2, 12345678.5, 1e-7, 0.5, 3.0]),
        ([True, False], [False, True, None]),
        (pd.to_datetime(["2021-03-28", "2021-03-29"]).date.tolist(), ["2021-03-29", "2021-03-28", ""]),
    ],
    ids=["fractions", "booleans", "dates"],
)
def test_ids_of_every_type_print_as_those_of_rows(
    spark: SparkSession, raw: pd.DataFrame, tmp_path: Path, ids: list[Any], items: list[Any]
) -> None:
    source = pd.DataFrame({"id": ids, "embedding": [[float(n + 1)] for n in range(len(ids))]})
    write(tmp_path / "posters", source)
    frame = raw.drop(columns="item").assign(item=[items[n % len(items)] for n in range(ROWS)])
    made = prepared_of(spark, frame, run_of(tmp_path), tmp_path / "data")
    texts = [str(i) for i in ids]
    expected = [ids.index(i) + 1 if i in ids else texts.index(i) + 1 if i in texts else 0 for i in items]
    assert looked_up(made)[1].tolist() == [float(expected[n % len(items)]) for n in range(ROWS)]


def test_vectors_of_json_lines_and_of_a_table(spark: SparkSession, raw: pd.DataFrame, tmp_path: Path) -> None:
    lines = [json.dumps({"id": n, "embedding": [n, 1, -n]}) for n in range(ITEMS)]
    (tmp_path / "posters.json").write_text("\n".join(lines) + "\n")
    made = prepared_of(
        spark, raw, run_of(tmp_path, poster(source={"path": "posters.json"})), tmp_path / "data"
    )
    source = pd.DataFrame({"id": range(ITEMS), "embedding": [[n, 1, -n] for n in range(ITEMS)]})
    expected = wanted(raw, source)
    np.testing.assert_array_equal(looked_up(made).iloc[:, 1:].to_numpy(), expected)
    lists = [(i, vector.tolist()) for i, vector in posters().itertuples(index=False)]
    spark.createDataFrame(lists, "id string, embedding array<double>").createOrReplaceTempView(
        "poster_vectors"
    )
    run = run_of(tmp_path, poster(source={"table": "poster_vectors"}))
    again = prepared_of(spark, raw, run, tmp_path / "table")
    np.testing.assert_array_equal(looked_up(again).iloc[:, 1:].to_numpy(), wanted(raw, posters()))


def fixed_size(path: Path) -> None:
    """Write the list column as Arrow's fixed-size lists of 32-bit floats."""
    source = posters()
    flat = pa.array(np.concatenate(source["embedding"].tolist()).astype(np.float32))
    lists = pa.FixedSizeListArray.from_arrays(flat, DIM)
    pq.write_table(pa.table({"id": pa.array(source["id"].tolist()), "embedding": lists}), path)


def test_fixed_size_lists_are_vectors_too(
    spark: SparkSession, raw: pd.DataFrame, prepared: Prepared, tmp_path: Path
) -> None:
    (tmp_path / "posters").mkdir()
    fixed_size(tmp_path / "posters" / "0.parquet")
    made = prepared_of(spark, raw, run_of(tmp_path), tmp_path / "data")
    assert made.manifest.spec == prepared.manifest.spec


GOOD = {"id": ["a", "b", "c"], "embedding": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]}
NULLS = pd.array([None] * 3, dtype=pd.ArrowDtype(pa.list_(pa.float32())))
BAD_SOURCES = [
    ("an id twice", {"id": ["a", "b", "a"]}, ["1 row(s) of vectors repeat an id", "id 'a'"]),
    ("no id", {"id": ["a", None, ""]}, ["2 row(s) of vectors have no id"]),
    ("no vector", {"embedding": [[1.0], None, [2.0]]}, ["1 id(s) have no vector", "id 'b'"]),
    ("no vector at all", {"embedding": NULLS}, ["3 id(s) have no vector", "id 'a'"]),
    ("nulls of no type", {"embedding": [None, None, None]}, ["holds no vectors", "void"]),
    ("another length", {"embedding": [[1.0, 2.0], [3.0], [5.0, 6.0]]}, ["another length", "numbers"]),
    ("empty lists", {"embedding": [[], [], []]}, ["3 vector(s) have another length", "'a': 0 numbers"]),
    ("nan", {"embedding": [[1.0, 2.0], [3.0, np.nan], [5.0, 6.0]]}, ["1 vector(s) hold values", "id 'b'"]),
    ("null", {"embedding": [[1.0, 2.0], [3.0, None], [5.0, 6.0]]}, ["1 vector(s) hold values", "id 'b'"]),
    ("infinite", {"embedding": [[1.0, 2.0], [3.0, 4.0], [np.inf, 6.0]]}, ["infinite", "id 'c'"]),
    ("too large", {"embedding": [[1.0, 2.0], [3.0, 4.0], [1e300, 6.0]]}, ["32-bit", "id 'c'"]),
    ("texts", {"embedding": ["1,2", "3,4", "5,6"]}, ["holds no vectors", "string", "array<float>"]),
    ("lists of texts", {"embedding": [["1"], ["2"], ["3"]]}, ["holds no vectors", "array<string>"]),
    ("ids in lists", {"id": [["a"], ["b"], ["c"]]}, ["'id'", "holds lists"]),
    ("no such id column", {"id": None}, ["column 'id' is not in the rows", "id"]),
    ("no such column", {"embedding": None}, ["column 'embedding' is not in the rows"]),
]


@pytest.mark.parametrize(("_what", "changes", "told"), BAD_SOURCES, ids=[case[0] for case in BAD_SOURCES])
def test_a_bad_source_is_named(
    spark: SparkSession,
    raw: pd.DataFrame,
    tmp_path: Path,
    _what: str,
    changes: dict[str, Any],
    told: list[str],
) -> None:
    columns = {name: changes.get(name, values) for name, values in GOOD.items()}
    write(tmp_path / "posters", pd.DataFrame({k: v for k, v in columns.items() if v is not None}))
    with pytest.raises(DataError) as error:
        prepared_of(spark, raw, run_of(tmp_path), tmp_path / "data")
    text = str(error.value)
    assert all(part in text for part in ["features.dense.1.vectors", "posters", *told]), text
    assert not (tmp_path / "data").exists()


def test_an_empty_or_missing_source_and_a_bad_line_are_named(
    spark: SparkSession, raw: pd.DataFrame, tmp_path: Path
) -> None:
    for source, told in (("nothing.parquet", "nothing.parquet"), ("empty.parquet", "has no rows")):
        if source.startswith("empty"):
            typed = pa.table(
                {"id": pa.array([], pa.string()), "embedding": pa.array([], pa.list_(pa.float32()))}
            )
            pq.write_table(typed, tmp_path / source)
        with pytest.raises(DataError, match=told):
            prepared_of(spark, raw, run_of(tmp_path, poster(source={"path": source})), tmp_path / "data")
    (tmp_path / "bad.json").write_text('{"id": 1, "embedding": [1.5]}\n{"id": 2, "embed\n')
    with pytest.raises(DataError, match=r"1 line\(s\) are no JSON objects"):
        prepared_of(spark, raw, run_of(tmp_path, poster(source={"path": "bad.json"})), tmp_path / "data")


BAD_CONFIGS = [
    ({"dense": [poster(on="itme")]}, ["'itme'", "features.dense.0.vectors.on", "`item`"]),
    ({"dense": [poster(on="tags")]}, ["'tags'", "one id", "features.dense.0.vectors.on"]),
    ({"dense": [poster(on="label")]}, ["label cannot be a feature"]),
    ({"dense": [{**poster(), "ops": ["log1p"]}]}, ["leave out `ops`", "features.dense.0"]),
    ({"dense": [{"vectors": poster()["vectors"]}]}, ["needs a `name`"]),
    ({"dense": [{**poster(), "embedding_dim": 4}]}, ["no table", "features.dense.0"]),
    ({"sparse": [poster()]}, ["move it to features.dense"]),
    ({"dense": [poster()], "sparse": [{"columns": "item", "table": "poster"}]}, ["`table` must name"]),
]


@pytest.mark.parametrize(("features", "told"), BAD_CONFIGS)
def test_a_bad_config_is_named(
    spark: SparkSession, raw: pd.DataFrame, tmp_path: Path, features: dict[str, Any], told: list[str]
) -> None:
    frame = raw.assign(tags=[["a"]] * ROWS)
    made = lambda: prepared_of(  # noqa: E731
        spark, frame, make_run(data={"root": str(tmp_path)}, **features), tmp_path / "data"
    )
    with pytest.raises((ConfigError, DataError)) as error:
        made()
    assert all(part in str(error.value) for part in told), str(error.value)


def test_rows_to_be_scored_look_their_vectors_up_in_the_data_set(
    spark: SparkSession, raw: pd.DataFrame, prepared: Prepared, tmp_path: Path
) -> None:
    spec = prepared.manifest.spec
    made = apply_spec(spark.createDataFrame(raw), spec, prepared.path, spark, keep=["row"])
    with pytest.raises(ConfigError, match="vectors_in"):
        write_inputs(made, spec, tmp_path / "none", spark)
    manifest = write_inputs(
        made, spec, tmp_path / "inputs", spark, vectors_in=prepared.path, order_by=["keep.row"]
    )
    assert not (tmp_path / "inputs" / "vectors").exists()
    rows, dense = read(tmp_path / "inputs", manifest, "test")
    assert rows.tolist() == list(range(ROWS))
    np.testing.assert_array_equal(dense[:, 1:], wanted(raw, posters()))


def test_what_is_skipped_of_a_source_is_told(spark: SparkSession, raw: pd.DataFrame, tmp_path: Path) -> None:
    lines = [json.dumps({"id": n, "embedding": [float(n)]}) for n in range(ITEMS)]
    (tmp_path / "posters.json").write_text("\n".join([*lines, '{"id": 99, "embed']) + "\n")
    run = run_of(tmp_path, poster(source={"path": "posters.json", "on_corrupt": "skip"}))
    told = r"features\.dense\.1\.vectors\.source: skipped: 1 line.*posters\.json"
    (remark,) = prepared_of(spark, raw, run, tmp_path / "data").manifest.remarks
    assert re.match(told, remark)
    again = spark.createDataFrame(day(raw, 1))
    remarks = append_rows(run, tmp_path / "data", "grow", frame=again, spark=spark).manifest.remarks
    assert [bool(re.match(told, remark)) for remark in remarks] == [True, True]


def day(raw: pd.DataFrame, number: int) -> pd.DataFrame:
    return raw.assign(row=raw["row"] + number * ROWS, x=raw["x"] + number)


@pytest.mark.parametrize("mode", ["frozen", "grow"])
def test_a_day_is_appended(
    spark: SparkSession, raw: pd.DataFrame, tmp_path: Path, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "posters", posters())
    run = run_of(tmp_path)
    first = prepared_of(spark, raw, run, tmp_path / "data")
    part = tmp_path / "data" / "vectors" / "poster" / "part-00000.npy"
    inode = part.stat().st_ino
    before = read_vocabulary(first.path, "poster")
    # The next day's source has ten ids more; of the old ones it may tell what it likes.
    new = posters(0, ITEMS + 10)
    write(
        tmp_path / "later",
        new.assign(embedding=[v if n >= ITEMS else v + 1 for n, v in enumerate(new["embedding"])]),
    )
    later = run_of(tmp_path, poster(source={"path": "later"}))
    frame = day(raw, 1)
    done = append_rows(later, tmp_path / "data", mode, frame=spark.createDataFrame(frame), spark=spark)
    assert part.stat().st_ino == inode
    stored, (feature,) = read_vocabulary(done.path, "poster"), done.manifest.spec.vectors
    assert stored.iloc[:ITEMS].equals(before)
    found = looked_up(done)
    # Rows that are there already keep the ids that they had: unknown then is unknown still.
    np.testing.assert_array_equal(found.iloc[:ROWS, 1:].to_numpy(), wanted(raw, posters()))
    if mode == "frozen":
        assert done.manifest.spec == first.manifest.spec
        np.testing.assert_array_equal(found.iloc[ROWS:, 1:].to_numpy(), wanted(raw, posters()))
        return
    assert stored["value"].tolist()[ITEMS:] == sorted(map(str, range(ITEMS, ITEMS + 10)))
    assert stored["id"].tolist() == list(range(2, 2 + ITEMS + 10))
    assert feature.num_embeddings == 2 + ITEMS + 10
    np.testing.assert_array_equal(found.iloc[ROWS:, 1:].to_numpy(), wanted(raw, new))
    whole = tmp_path / "whole"
    write(whole / "posters", new)
    (at_once,) = prepared_of(spark, raw, run_of(whole), whole / "data").manifest.spec.vectors
    assert at_once.vectors == feature.vectors  # the digest is that of the set of vectors
    again = append_rows(
        later, tmp_path / "data", "grow", frame=spark.createDataFrame(day(raw, 2)), spark=spark
    )
    assert again.manifest.spec.vectors == (feature,)  # no id is new
    write(tmp_path / "wider", pd.DataFrame({"id": ["new"], "embedding": [[1.0] * (DIM + 1)]}))
    with pytest.raises(DataError, match=f"another length than {DIM}"):
        append_rows(
            run_of(tmp_path, poster(source={"path": "wider"})),
            tmp_path / "data",
            "grow",
            frame=spark.createDataFrame(day(raw, 3)),
            spark=spark,
        )


def two_of(first: str, second: str) -> list[dict[str, Any]]:
    """Return two features of the same ids; each names its source."""
    second_poster = {**poster(source={"path": second}, on="other"), "name": "other poster"}
    return [poster(source={"path": first}), second_poster]


def with_other(raw: pd.DataFrame, number: int) -> pd.DataFrame:
    return day(raw.assign(other=raw["item"].iloc[::-1].to_numpy()), number)


def appended(spark: SparkSession, raw: pd.DataFrame, root: Path, *paths: str) -> Prepared:
    run, frame = run_of(root, *two_of(*paths)), spark.createDataFrame(with_other(raw, 1))
    return append_rows(run, root / "data", "grow", frame=frame, spark=spark)


def assert_added_rows_have(done: Prepared, raw: pd.DataFrame, *sources: pd.DataFrame) -> None:
    frame, found = with_other(raw, 1), looked_up(done).iloc[ROWS:].to_numpy()
    np.testing.assert_array_equal(found[:, 1 : 1 + DIM], wanted(frame, sources[0]))
    others = wanted(frame.assign(item=frame["other"]), sources[1])
    np.testing.assert_array_equal(found[:, 1 + DIM :], others)


def test_features_that_share_vectors_grow_from_one_source(
    spark: SparkSession, raw: pd.DataFrame, tmp_path: Path
) -> None:
    write(tmp_path / "posters", posters())
    write(tmp_path / "later", posters(0, ITEMS + 10))
    run = run_of(tmp_path, *two_of("posters", "posters"))
    first = prepared_of(spark, with_other(raw, 0), run, tmp_path / "data").manifest
    for paths in [("later", "posters"), ("posters", "later")]:
        with pytest.raises(ConfigError, match="'poster' and 'other poster' share") as error:
            appended(spark, raw, tmp_path, *paths)
        assert all(path in str(error.value) for path in paths)
    assert Manifest.load(tmp_path / "data") == first
    done = appended(spark, raw, tmp_path, "later", "later")
    one, two = done.manifest.spec.vectors
    assert (one.vectors, one.vocabulary_hash) == (two.vectors, two.vocabulary_hash)
    assert one.num_embeddings == two.num_embeddings == 2 + ITEMS + 10
    assert_added_rows_have(done, raw, posters(0, ITEMS + 10), posters(0, ITEMS + 10))


def test_features_with_vectors_of_their_own_grow_apart_from_one_source(
    spark: SparkSession, raw: pd.DataFrame, tmp_path: Path
) -> None:
    half, new = posters(0, ITEMS // 2), posters(0, ITEMS + 10)
    other = half.assign(embedding=[v + 1 for v in half["embedding"]])
    write(tmp_path / "one", posters())
    write(tmp_path / "two", other)
    write(tmp_path / "later", new)
    run = run_of(tmp_path, *two_of("one", "two"))
    prepared_of(spark, with_other(raw, 0), run, tmp_path / "data")
    done = appended(spark, raw, tmp_path, "later", "later")
    one, two = (feature.vectors for feature in done.manifest.spec.vectors)
    assert one is not None
    assert two is not None
    assert (one.folder, two.folder) == ("vectors/poster", "vectors/other_poster")
    # What is there already keeps its vectors; the new ids of each get those of the source.
    assert_added_rows_have(done, raw, new, pd.concat([other, new.iloc[len(half) :]]))


def test_rows_from_another_root_leave_the_vectors_where_they_are(
    spark: SparkSession, raw: pd.DataFrame, tmp_path: Path
) -> None:
    write(tmp_path / "first" / "posters", posters())
    write(tmp_path / "first" / "rows", raw)
    run = run_of(tmp_path / "first").override("data.source={path: rows}")
    prepare(None, run, tmp_path / "data", spark=spark)
    write(tmp_path / "day2" / "rows", day(raw, 1))
    write(tmp_path / "first" / "posters", posters(ITEMS, ITEMS + 10))  # new ids come where the old ones are
    done = prepare(tmp_path / "day2", run, tmp_path / "data", append="grow", spark=spark)
    assert done.manifest.spec.vectors[0].num_embeddings == 2 + ITEMS + 10
