"""The rows: the same however they are divided, spread as asked for, and labelled by the stated formula."""

from __future__ import annotations

import zlib
from math import exp, log1p, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.synthesis.blocks import make_block
from jobs.synthesis.draws import BLOCK_ROWS
from jobs.synthesis.shape import Shape
from jobs.synthesis.truth import Truth, fit_truth, probabilities
from jobs.synthesis.writing import METADATA_KEY, batch_of, file_name, write_file
from tests.unit.jobs.synthesis.test_draws import lowbias32

OPTIONS: dict[str, Any] = {
    "rows": 40_000,
    "dense": 2,
    "sparse": 3,
    "cardinality": 2000,
    "multi_hot": 1,
    "mean_length": 4.0,
    "history": 20,
    "days": 3,
}
TRUTH = Truth(bias=-1.0, scale=1.3)


def written(folder: Path, **options: Any) -> list[Path]:
    """Write all files of a shape, the last one first."""
    shape = Shape.of(**{**OPTIONS, **options})
    folder.mkdir()
    for number in reversed(range(shape.num_files)):
        write_file(shape, TRUTH, folder, number)
    return [folder / file_name(shape, number) for number in range(shape.num_files)]


def table_of(files: list[Path]) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in files])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return table_of(written(tmp_path_factory.mktemp("one") / "rows", files=1))


@pytest.mark.parametrize("files", [2, 7])
def test_rows_do_not_depend_on_the_number_of_files(table: pa.Table, tmp_path: Path, files: int) -> None:
    parts = written(tmp_path / "rows", files=files)
    assert len(parts) == files
    assert BLOCK_ROWS % pq.read_metadata(parts[0]).num_rows != 0  # cut inside blocks
    assert table_of(parts).equals(table)


def test_a_file_written_twice_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    first, second = (written(tmp_path / name, files=3)[1] for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_another_seed_gives_other_rows(table: pa.Table, tmp_path: Path) -> None:
    other = table_of(written(tmp_path / "rows", files=1, seed=2))
    same = [name for name in table.column_names if other.column(name).equals(table.column(name))]
    assert same == ["event_time"]


def test_columns_have_the_shape_that_was_asked_for(table: pa.Table) -> None:
    assert table.column_names == [
        "label", "I1", "I2", "C1", "C2", "C3", "M1", "user_id", "item_id", "event_time"
    ]  # fmt: skip
    assert table.schema.field("M1").type == pa.list_(table.schema.field("C1").type) == pa.list_(pa.int64())
    frame = table.to_pandas()
    missing = frame.isna().mean()
    assert missing[["I1", "I2", "C1", "C2", "C3", "M1"]].between(0.04, 0.06).all()
    assert missing[["label", "user_id", "item_id", "event_time"]].max() == 0
    assert frame["C3"].nunique() > frame["C2"].nunique() > frame["C1"].nunique() == 10
    assert frame["I2"].min() == 0
    assert frame["I2"].mean() > 3 * frame["I2"].median()
    lengths = frame["M1"].dropna().map(len)
    assert lengths.min() == 1
    assert lengths.mean() == pytest.approx(4.0, abs=0.1)
    assert frame["user_id"].value_counts().mean() == pytest.approx(20, rel=0.1)
    times = frame["event_time"]
    assert times.is_monotonic_increasing
    assert pd.to_datetime(times.iloc[[0, -1]], unit="s").dt.date.astype(str).tolist() == [
        "2024-01-01",
        "2024-01-03",
    ]


def test_tsv_holds_the_same_values_in_criteos_form(table: pa.Table, tmp_path: Path) -> None:
    (path,) = written(tmp_path / "rows", files=1, format="tsv")
    frame = table.to_pandas()
    for row, line in zip(
        frame.head(500).itertuples(index=False), path.read_text().splitlines(), strict=False
    ):
        fields = line.split("\t")
        items = "" if row.M1 is None else "|".join(f"{item:08x}" for item in row.M1)
        ids = ["" if pd.isna(value) else f"{int(value):08x}" for value in (row.C1, row.C2, row.C3)]
        numbers = ["" if pd.isna(value) else str(int(value)) for value in (row.I1, row.I2)]
        events = [f"{row.user_id:08x}", f"{row.item_id:08x}", str(row.event_time)]
        assert fields == [str(row.label), *numbers, *ids, items, *events]
    assert len(path.read_text().splitlines()) == len(frame)


def test_every_parquet_file_says_that_it_is_synthetic(tmp_path: Path) -> None:
    for path in written(tmp_path / "rows", files=2):
        assert path.name.startswith("synthetic-")
        assert b"made by shardrec synth" in pq.read_schema(path).metadata[METADATA_KEY.encode()]


def test_a_file_that_fails_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / file_name(Shape.of(**OPTIONS), 0)).mkdir()  # nothing can take its place
    with pytest.raises(OSError, match="synthetic-000000"):
        write_file(Shape.of(**OPTIONS), TRUTH, folder, 0)
    assert len(list(folder.iterdir())) == 1


class Formula:
    """The signal of one row from its values alone, in plain Python, as docs/synthetic.md states it."""

    def __init__(self, shape: Shape) -> None:
        self.seed, self.shape = shape.seed, shape
        self.rank_of_item = {
            self.hashed("item_id", "id", rank): rank for rank in range(1, shape.num_items + 1)
        }

    def hashed(self, name: str, purpose: str, value: int) -> int:
        return lowbias32(value, zlib.crc32(f"{self.seed}:{name}:{purpose}".encode()))

    def effect(self, name: str, value: int) -> float:
        return (self.hashed(name, "effect", value) / 2**32 - 0.5) * sqrt(12)

    def sign(self, name: str, value: int | None) -> int:
        return 0 if value is None else 2 * (self.hashed(name, "sign", value) % 2) - 1

    def dense(self, name: str, value: int | None, scale: float) -> float:
        if value is None:
            return 0.0
        sign = 1 if zlib.crc32(f"{self.seed}:{name}:sign".encode()) % 2 else -1
        return sign * (log1p(value) / scale - 1)

    def signal(self, row: dict[str, Any]) -> float:
        additive = [self.dense("I1", row["I1"], 0.5), self.dense("I2", row["I2"], 2.5)]
        for name in ("C1", "C2", "C3", "user_id", "item_id"):
            additive.append(0.0 if row[name] is None else self.effect(name, row[name]))
        items = row["M1"] or []
        additive.append(sum(self.effect("M1", item) for item in items) / max(1, len(items)) * sqrt(4.0))
        taste = self.hashed("user_id", "taste", row["user_id"]) % 16
        joint = self.sign("C1", row["C1"]) * self.sign("C2", row["C2"])
        joint += 1 if self.rank_of_item[row["item_id"]] % 16 == taste else -1
        return sum(additive) * sqrt(0.8 / len(additive)) + joint * sqrt(0.2 / 2)


def test_labels_follow_the_documented_formula_of_what_a_row_shows() -> None:
    shape = Shape.of(**OPTIONS)
    batch, levels, labels = batch_of(shape, TRUTH, 1)
    signal, formula = make_block(shape, 1).signal, Formula(shape)
    rows = batch.slice(0, 400).to_pylist()
    for number, row in enumerate(rows):
        expected = formula.signal(row)
        assert signal[number] == pytest.approx(expected, abs=1e-9)
        p = 1 / (1 + exp(-(TRUTH.bias + TRUTH.scale * expected)))
        assert float(probabilities(levels[number : number + 1])[0]) == pytest.approx(p, abs=1 / 65_536)
        assert row["label"] == int(labels[number])
    p = probabilities(levels)
    assert labels.sum() == pytest.approx(p.sum(), abs=5 * sqrt((p * (1 - p)).sum()))


@pytest.mark.parametrize("rate", [0.02, 0.25, 0.9])
def test_share_of_positives_and_spread_of_the_logit_are_met(rate: float) -> None:
    shape = Shape.of(rows=1_000_000, sparse=5, dense=3, positive_rate=rate, signal=0.7)
    truth = fit_truth(shape)
    signal = np.concatenate([make_block(shape, number).signal for number in range(8)])
    assert (truth.scale * signal).std() == pytest.approx(0.7, rel=0.03)
    assert probabilities(truth.levels(signal)).mean() == pytest.approx(rate, abs=0.003)
