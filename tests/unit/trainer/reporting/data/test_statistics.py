"""The numbers of the data report against scikit-learn, SciPy, pandas and hand-made sums."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from tests.support.datasets import write_dataset
from tests.unit.trainer.reporting.data.planted import sparse, write
from trainer.reporting.data.counted import (
    count_ids,
    count_values,
    order_fingerprint,
    renaming_fingerprint,
)
from trainer.reporting.data.dense import dense_profile
from trainer.reporting.data.drift import dense_drift, id_drift, ks_distance, psi
from trainer.reporting.data.ids import id_profile
from trainer.reporting.data.labels import as_times, buckets
from trainer.reporting.data.leakage import dense_auc, id_auc, out_of_fold_rates
from trainer.reporting.data.sample import row_quotas, take_samples
from trainer.schema import Feature, FittedOp, Manifest

RNG = np.random.default_rng(7)


def coarse(rows: int, shift: float = 0.0) -> np.ndarray:
    """Return normal numbers with many ties."""
    return np.round(RNG.normal(shift, 1.0, rows), 1)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_distinct_values_and_places_are_numpys(kind: type) -> None:
    for values in (coarse(3000), RNG.normal(size=3000), np.array([0.0, -0.0, 1.0, -0.0]), np.zeros(0)):
        counted, places = count_values(values.astype(kind))
        expected = np.unique(values.astype(kind), return_inverse=True, return_counts=True)
        assert counted.values.dtype == kind
        for found, wanted in zip((counted.values, places, counted.counts), expected, strict=True):
            assert found.tolist() == wanted.tolist()


def test_ids_of_large_tables_are_counted_as_those_of_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = RNG.integers(0, 400, 3000)
    small, places = count_ids(ids, 500)
    monkeypatch.setattr("trainer.reporting.data.counted.COUNTED_DIRECTLY", 499)
    large, others = count_ids(ids, 500)
    assert small.values[places].tolist() == ids.tolist()
    assert (large.values.tolist(), large.counts.tolist()) == (small.values.tolist(), small.counts.tolist())
    assert others.tolist() == places.tolist()


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_quantiles_are_those_of_the_inverse_cdf(rows: int) -> None:
    values, shares = coarse(rows), np.linspace(0, 1, 21)
    found = count_values(values)[0].quantiles(shares)
    assert found.tolist() == np.quantile(values, shares, method="inverted_cdf").tolist()


def test_ks_distance_is_scipys() -> None:
    first, second = coarse(900), coarse(400, shift=0.3)
    found = ks_distance(count_values(first)[0], count_values(second)[0])
    assert found == pytest.approx(stats.ks_2samp(first, second).statistic, abs=1e-12)


def test_psi_is_the_sum_over_bins() -> None:
    expected, actual = np.array([50, 30, 20]), np.array([20, 30, 50])
    # Shares after half a count more in every bin.
    p, q = (expected + 0.5) / 101.5, (actual + 0.5) / 101.5
    assert psi(expected, actual) == pytest.approx(
        sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    )
    assert psi(expected, expected) == 0.0


def test_psi_of_equal_distributions_is_what_chance_gives() -> None:
    found = [dense_drift(count_values(coarse(2000))[0], count_values(coarse(500))[0]) for _ in range(60)]
    assert np.mean([drift.psi for drift in found]) == pytest.approx(found[0].psi_by_chance, rel=0.25)
    assert not any(drift.large for drift in found)


def test_ids_drift_by_missing_unknown_frequent_and_other_ids() -> None:
    train = np.concatenate([np.zeros(100), np.ones(100), np.full(600, 2), np.arange(3, 203)]).astype(int)
    other = np.concatenate([np.ones(500), np.full(300, 2), np.arange(3, 203)]).astype(int)
    found = id_drift(count_ids(train, 300)[0], count_ids(other, 300)[0], (1000, 1000))
    # Bins: missing, unknown, id 2, the 17 smallest of the ids that occur once, the rest of them.
    bins = np.array([[100, 100, 600, *[1] * 17, 183], [0, 500, 300, *[1] * 17, 183]])
    assert found.psi == pytest.approx(psi(bins[0], bins[1]))
    assert found.large


@pytest.mark.parametrize("direction", [1, -1])
def test_dense_auc_is_scikit_learns_in_either_direction(direction: int) -> None:
    values = coarse(3000)
    labels = RNG.random(3000) < 1 / (1 + np.exp(-2 * direction * values))
    counted, places = count_values(values)
    expected = roc_auc_score(labels, direction * values)
    assert dense_auc(counted, places, labels, seed=1) == pytest.approx(expected, abs=0.005)


def test_dense_auc_sees_what_is_high_in_the_middle() -> None:
    values = RNG.random(4000)
    labels = np.abs(values - 0.5) < 0.2
    counted, places = count_values(values)
    by_value = roc_auc_score(labels, values)
    found = dense_auc(counted, places, labels, seed=1)
    assert max(by_value, 1 - by_value) < 0.6
    assert found is not None
    assert found > 0.98


def test_out_of_fold_rates_leave_out_the_rows_own_fold() -> None:
    ids, labels = RNG.integers(0, 40, 2000), RNG.random(2000) < 0.3
    found = out_of_fold_rates(ids, 40, np.arange(2000), labels, seed=3)
    folds = np.random.default_rng(3).integers(0, 5, 2000, dtype=np.int64)
    base = labels.mean()
    for row in range(0, 2000, 97):
        others = labels[(ids == ids[row]) & (folds != folds[row])]
        assert found[row] == pytest.approx((others.sum() + base) / (len(others) + 1))


def test_id_auc_is_scikit_learns_of_the_rates() -> None:
    ids = RNG.integers(2, 60, 5000)
    labels = RNG.random(5000) < (ids % 7) / 8
    found = id_auc(*count_ids(ids, 60), None, labels, seed=3)
    rates = out_of_fold_rates(ids, 60, np.arange(5000), labels, seed=3)
    assert found == pytest.approx(roc_auc_score(labels, rates), abs=1e-3)


def test_the_auc_of_lists_is_scikit_learns_of_the_mean_rate_of_each_list() -> None:
    lengths = RNG.integers(0, 5, 2000)
    rows, ids = np.repeat(np.arange(2000), lengths), RNG.integers(2, 40, lengths.sum())
    sums = np.bincount(rows, weights=ids, minlength=2000) / np.maximum(lengths, 1)
    labels = RNG.random(2000) < sums / 40
    found = id_auc(*count_ids(ids, 40), lengths, labels, seed=3)
    empty = np.flatnonzero(lengths == 0)  # they share an id of their own
    rows, ids = np.append(rows, empty), np.append(ids, np.zeros(len(empty), dtype=int))
    rates = pd.Series(out_of_fold_rates(ids, 40, rows, labels, seed=3)).groupby(rows).mean()
    assert found == pytest.approx(roc_auc_score(labels, rates), abs=1e-3)


def test_ids_that_occur_once_tell_nothing() -> None:
    ids, labels = np.arange(2, 4002), RNG.random(4000) < 0.5
    assert id_auc(*count_ids(ids, 4002), None, labels, seed=1) == 0.5


def test_auc_needs_rows_of_both_classes() -> None:
    labels = np.zeros(1000, dtype=bool)
    labels[:19] = True
    counted, places = count_values(coarse(1000))
    assert dense_auc(counted, places, labels, seed=1) is None
    labels[19] = True
    assert dense_auc(counted, places, labels, seed=1) is not None


def test_profile_of_ids_counts_as_pandas_does(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows={"train": 3000, "test": 500}, rows_per_row_group=500)
    samples = take_samples(tmp_path, written.manifest, 10_000, seed=1)
    for name in ("s0", "m0", "h0"):
        feature = next(f for f in written.manifest.spec.features if f.name == name)
        found = id_profile(feature, samples, 3.0, seed=1)
        column = written.tables["train"].column(name).to_pandas()
        flat = pd.Series(np.concatenate(column.to_numpy())) if feature.is_list else column
        known = flat[flat > 0].value_counts()
        assert found.distinct == len(known)
        assert found.top[0] == (known.index[0], pytest.approx(known.iloc[0] / len(flat)))
        assert found.top_share == pytest.approx(known.head(math.ceil(len(known) / 100)).sum() / known.sum())
        missing = (column.map(len) == 0) if feature.is_list else column == 0
        assert found.splits["train"].missing == pytest.approx(missing.mean())
        # These ids come from no vocabulary, so none can be outside of one.
        assert found.splits["test"].out_of_vocabulary is None
        if feature.is_list:
            assert found.lengths is not None
            lengths = column.map(len).value_counts().sort_index()
            assert found.lengths.values.tolist() == lengths.index.tolist()
            assert found.lengths.counts.tolist() == lengths.tolist()


def test_shares_of_missing_and_unknown_ids_are_those_of_each_split(tmp_path: Path) -> None:
    ids = {"train": [0, 1, 2, 2, 3], "valid": [1, 1, 2, 0, 0]}
    feature = sparse("c", 5)
    write(tmp_path, [feature], {k: {"c": v, "label": [0, 1, 0, 1, 0]} for k, v in ids.items()})  # type: ignore[misc]
    found = id_profile(feature, take_samples(tmp_path, Manifest.load(tmp_path), 100, seed=1), 1.0, seed=1)
    assert (found.splits["train"].missing, found.splits["train"].out_of_vocabulary) == (0.2, 0.25)
    assert (found.splits["valid"].missing, found.splits["valid"].out_of_vocabulary) == (
        0.4,
        pytest.approx(2 / 3),
    )
    assert (found.distinct, found.top) == (2, ((2, 0.4), (3, 0.2)))


def test_histogram_holds_every_row_of_each_split_once(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows={"train": 2000, "test": 300})
    samples = take_samples(tmp_path, written.manifest, 10_000, seed=1)
    found = dense_profile(written.manifest.spec.dense[0], samples, seed=1)
    for split, shares in found.histogram.items():
        values = np.clip(written.tables[split].column("d0").to_numpy(), found.edges[0], found.edges[-1])
        expected, _ = np.histogram(values, found.edges)
        assert np.abs(shares * len(values) - expected).max() <= 1  # a value on an edge
        assert shares.sum() == pytest.approx(1.0)


def test_one_fingerprint_for_ids_that_are_equal_up_to_names() -> None:
    first = RNG.integers(0, 30, 500)
    renamed = RNG.permutation(30)[first]
    other = first.copy()
    other[-1] = (other[-1] + 1) % 30
    assert renaming_fingerprint(first, 30) == renaming_fingerprint(renamed, 30)
    assert renaming_fingerprint(first, 30) != renaming_fingerprint(other, 30)
    assert renaming_fingerprint(first, 30, np.full(500, 1)) != renaming_fingerprint(
        first, 30, np.full(250, 2)
    )
    # Ids that occur once are renamings of each other, whatever they are.
    once = [RNG.permutation(500) for _ in range(2)]
    assert renaming_fingerprint(once[0], 500) != renaming_fingerprint(once[1], 500)


def test_one_fingerprint_for_numbers_of_another_scale() -> None:
    numbers = RNG.normal(size=500)
    found = [order_fingerprint(count_values(x)[1]) for x in (numbers, 4 * numbers, np.exp(numbers), -numbers)]
    assert found[0] == found[1] == found[2] != found[3]


def test_quotas_are_in_proportion_but_small_splits_keep_a_tenth() -> None:
    assert row_quotas({"train": 600, "valid": 100, "test": 100}, 1000) == {
        "train": 600,
        "valid": 100,
        "test": 100,
    }
    found = row_quotas({"train": 1_000_000, "valid": 50_000, "test": 500}, 100_000)
    assert found == {"train": round(1e5 * 1e6 / 1_050_500), "valid": 10_000, "test": 500}


def test_a_sample_is_whole_row_groups_by_seed_and_columns_stay_in_line(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows=4000, rows_per_row_group=100, rows_per_file=1000)
    samples = [take_samples(tmp_path, written.manifest, 450, seed=seed)["train"] for seed in (1, 1, 2)]
    rows = [sample.column("keep.row").to_numpy() for sample in samples]
    assert [len(x) for x in rows] == [450] * 3
    assert rows[0].tolist() == rows[1].tolist() != rows[2].tolist()
    assert len(set((rows[0] // 100).tolist())) == 5
    table = written.tables["train"].take(pa.array(rows[0]))
    assert samples[0].labels.tolist() == (table.column("label").to_numpy() > 0.5).tolist()
    feature = next(f for f in written.manifest.spec.features if f.name == "m0")
    ids, lengths = samples[0].ids(feature, 3.0)
    assert lengths is not None
    assert np.split(ids, np.cumsum(lengths)[:-1])[7].tolist() == table.column("m0")[7].as_py()


def test_buckets_are_equally_many_rows_in_time_order() -> None:
    times, labels = RNG.random(1000), RNG.random(1000) < 0.4
    means, rates, errors = buckets(times, labels, 4)
    rows = pd.DataFrame({"time": times, "label": labels}).sort_values("time")
    for number, start in enumerate(range(0, 1000, 250)):
        part = rows.iloc[start : start + 250]
        assert (means[number], rates[number]) == (
            pytest.approx(part.time.mean()),
            pytest.approx(part.label.mean()),
        )
    assert errors == pytest.approx(np.sqrt(rates * (1 - rates) / 250))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([880000000, 880000060], [880000000.0, 880000060.0]),
        ([880000000000, 880000060000], [880000000.0, 880000060.0]),
        (["2024-01-01 00:00:00", "2024-01-02 00:00:00"], [1704067200.0, 1704153600.0]),
        (["14102100", "14102101"], [14102100.0, 14102101.0]),
        (pd.to_datetime(["2024-01-01", None]), [1704067200.0, math.nan]),
        (["soon", "later"], None),
        ([[1], [2]], None),
    ],
)
def test_times_are_read_from_numbers_dates_and_text(values: list, expected: list[float] | None) -> None:
    found = as_times(pa.chunked_array([pa.array(values)]))
    assert found is None if expected is None else np.array_equal(found, expected, equal_nan=True)  # type: ignore[arg-type]


def test_unseen_ids_of_several_buckets_are_one_bin_of_the_drift() -> None:
    train, other = np.repeat([0, 4, 5], [10, 60, 30]), np.repeat([0, 1, 2, 3, 4], [10, 5, 5, 10, 70])
    several = id_drift(count_ids(train, 6)[0], count_ids(other, 6)[0], (100, 100), unseen_ids=3)
    # The same with one bucket: what was 1 to 3 is 1, and all others move down.
    one = id_drift(
        count_ids(np.repeat([0, 2, 3], [10, 60, 30]), 4)[0],
        count_ids(np.repeat([0, 1, 2], [10, 20, 70]), 4)[0],
        (100, 100),
    )
    assert several == one


def test_lists_of_numbers_are_profiled_together_and_by_place(tmp_path: Path) -> None:
    numbers = Feature(
        name="n",
        kind="dense",
        column="n",
        ops=(FittedOp(name="numbers", params={"dim": 3, "delimiter": None}),),
    )
    labels = RNG.integers(0, 2, 900)
    values = RNG.normal(size=(900, 3)).astype(np.float32)
    values[:, 1] -= 1.5 * labels
    later = RNG.normal(size=(600, 3)).astype(np.float32) + np.array([0, -0.75, 2], np.float32)
    columns = {"train": (values, labels), "test": (later, RNG.integers(0, 2, 600))}
    folder = write(tmp_path, [numbers], {split: {"n": x, "label": y} for split, (x, y) in columns.items()})
    samples = take_samples(folder, Manifest.load(folder), 10_000, 1)
    order = samples["train"].dense(numbers)
    assert order.shape == (900, 3)
    found = dense_profile(numbers, samples, 1)
    assert found.distinct == len(np.unique(values))
    assert found.quantiles[0] == values.min()
    assert found.quantiles[-1] == values.max()
    aucs = [roc_auc_score(samples["train"].labels, order[:, place]) for place in range(3)]
    assert found.auc == pytest.approx(max(max(auc, 1 - auc) for auc in aucs), abs=0.02)
    assert found.auc > 0.8
    apart = [stats.ks_2samp(values[:, place], later[:, place]).statistic for place in range(3)]
    assert found.drift["test"].ks == pytest.approx(apart[2])
    assert sum(found.histogram["test"]) == pytest.approx(1.0)
