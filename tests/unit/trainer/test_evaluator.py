"""Metrics of a split, whole, by segment and with intervals, against the same from all rows at once."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from tests.support.predicted import Predicted, evaluated, predicted, write_kept
from trainer.config.metrics import METRICS
from trainer.errors import DataError
from trainer.evaluation_settings import EvaluationSettings
from trainer.metrics import (
    Ranked,
    binary_metrics,
    gauc,
    interval,
    ranking_values,
    rating_metrics,
    resample_counts,
)
from trainer.segments import Segments

ALL = frozenset(METRICS)
SETTINGS = EvaluationSettings(names=ALL, group="list", at=(1, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    write_kept(folder)
    return folder


@pytest.fixture(scope="module")
def rows() -> Predicted:
    """The rows that count."""
    found = predicted()
    return Predicted(**{name: column[found.weights > 0] for name, column in vars(found).items()})


def plain(rows: Predicted, chosen: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, ...]:
    return tuple(column[chosen].astype(float) for column in (rows.scores, rows.labels, rows.weights))


def list_means(rows: Predicted, in_country: Any = ...) -> dict[str, float]:
    """Return the means over lists of both classes, one list after another."""
    values, weights = [], []
    for number in np.unique(rows.lists):
        here = rows.lists == number
        order = np.flatnonzero(here)[np.argsort(-rows.scores[here])]
        positive = rows.labels[order] > 0.5
        if positive.all() or not positive.any():
            continue
        if in_country is not ... and in_country not in rows.countries[order][positive]:
            continue
        ranked = Ranked.from_scores(np.zeros(len(order), int), rows.scores[order], rows.labels[order])
        values.append({name: v[0] for name, v in ranking_values(ranked, (1, 3)).items()})
        weights.append(rows.weights[order][positive].astype(float).mean())
    return {name: float(np.average([v[name] for v in values], weights=weights)) for name in values[0]}


@pytest.mark.parametrize("rows_in_memory", [None, 100, 41])
def test_metrics_are_those_of_all_rows_at_once(
    folder: Path, rows: Predicted, rows_in_memory: int | None
) -> None:
    found = evaluated(folder, SETTINGS, rows_in_memory=rows_in_memory)
    assert found.rows == 900
    expected = binary_metrics(*plain(rows))
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    scores, labels, weights = plain(rows)
    assert found.metrics["gauc"] == pytest.approx(gauc(rows.lists, scores, labels, weights), abs=1e-12)
    of_lists = list_means(rows)
    assert {name: found.metrics[name] for name in of_lists} == pytest.approx(of_lists, abs=1e-12)
    positives = [rows.labels[rows.lists == number].mean() for number in np.unique(rows.lists)]
    both = sum(0 < share < 1 for share in positives)
    assert (found.metrics["groups"], found.metrics["groups_left_out"]) == (both, len(positives) - both)
    assert "rows_without_group" not in found.metrics
    assert found.metrics == evaluated(folder, SETTINGS).metrics  # to the last bit


def test_segments_have_the_metrics_of_their_rows_and_of_lists_with_a_positive_in_them(
    folder: Path, rows: Predicted
) -> None:
    settings = dataclasses.replace(SETTINGS, by="country")
    found = evaluated(folder, settings, rows_in_memory=100)
    sizes = {value: int((rows.countries == value).sum()) for value in ("fr", "de", "nl", None, "it")}
    assert {segment["value"]: segment["rows"] for segment in found.segments} == sizes
    assert [segment["rows"] for segment in found.segments] == sorted(sizes.values(), reverse=True)
    for segment in found.segments:
        here = rows.countries == segment["value"]
        scores, labels, weights = plain(rows, here)
        of_rows = segment["metrics"]
        assert of_rows["log_loss"] == pytest.approx(
            log_loss(labels, 1 / (1 + np.exp(-scores)), sample_weight=weights)
        )
        assert of_rows["auc"] == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
        assert of_rows["gauc"] == pytest.approx(gauc(rows.lists[here], scores, labels, weights))
        expected = list_means(rows, segment["value"])
        assert {name: of_rows[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert found.metrics == evaluated(folder, SETTINGS).metrics


def test_intervals_resample_groups_where_there_are_some_else_rows(folder: Path, rows: Predicted) -> None:
    settings = EvaluationSettings(confidence=0.8, resamples=40, seed=5)
    scores, labels, weights = plain(rows)
    for group, units in ((None, None), ("list", rows.lists)):
        found = evaluated(folder, dataclasses.replace(settings, group=group), rows_in_memory=100)
        low, high = found.intervals["auc"]
        assert low < found.metrics["auc"] < high
        assert "rows" not in found.intervals
        if units is None:
            continue
        counts = resample_counts(units, 40, seed=5)
        drawn = [binary_metrics(scores, labels, weights * counts[:, r])["auc"] for r in range(40)]
        assert (low, high) == pytest.approx(interval(np.array(drawn), 0.8), abs=1e-12)
        drawn = [gauc(rows.lists, scores, labels, weights * counts[:, r]) for r in range(40)]
        # A group that is drawn twice counts twice as much, with the AUC of its rows.
        assert found.intervals["gauc"] == pytest.approx(interval(np.array(drawn), 0.8), abs=1e-12)


def test_rows_without_a_group_are_left_out_of_groups_and_counted(folder: Path, rows: Predicted) -> None:
    settings = EvaluationSettings(group="user")
    found = evaluated(folder, settings, rows_in_memory=100)
    missing = np.array([user is None for user in rows.users])
    assert found.metrics["rows_without_group"] == missing.sum() > 0
    assert found.metrics["rows"] == len(missing)
    _, users = np.unique(rows.users[~missing].astype(str), return_inverse=True)
    scores, labels, weights = plain(rows, ~missing)
    assert found.metrics["gauc"] == pytest.approx(gauc(users, scores, labels, weights), abs=1e-12)
    assert not any("@" in name for name in found.metrics)  # groups are no lists unless a K is named


def test_only_what_is_named_is_told(folder: Path) -> None:
    settings = EvaluationSettings(names=frozenset({"ne", "hr"}), group="list", at=(2,))
    beside = {"base_rate", "rows", "groups", "groups_left_out"}
    assert evaluated(folder, settings).metrics.keys() == {"ne", "hr@2", *beside}


def test_a_k_that_no_list_is_longer_than_is_refused_when_named_and_else_left_out(folder: Path) -> None:
    settings = dataclasses.replace(SETTINGS, at=(3, 40))
    assert "hr@40" not in evaluated(folder, settings).metrics
    with pytest.raises(DataError, match=r"no longer than K[\s\S]*metrics.at[\s\S]*numbers below 1[0-2]"):
        evaluated(folder, dataclasses.replace(settings, at_given=True))


def test_lists_of_one_class_leave_nothing_to_tell(folder: Path) -> None:
    found = evaluated(folder, SETTINGS, labels=np.zeros(900))
    assert found.metrics["groups"] == 0
    assert all(math.isnan(found.metrics[name]) for name in ("gauc", "mrr", "auc"))


def test_a_constant_model_gets_what_chance_gives(folder: Path, rows: Predicted) -> None:
    found = evaluated(folder, SETTINGS, scores=np.zeros(900))
    assert found.metrics["gauc"] == found.metrics["auc"] == 0.5
    shares, weights = [], []
    for number in np.unique(rows.lists):
        here = rows.lists == number
        if 0 < rows.labels[here].mean() < 1:
            shares.append(rows.labels[here].mean())
            weights.append(rows.weights[here & (rows.labels > 0.5)].mean())
    assert found.metrics["hr@1"] == pytest.approx(np.average(shares, weights=weights), rel=1e-6)


def test_a_score_that_is_not_a_number_leaves_no_plausible_metric(folder: Path, rows: Predicted) -> None:
    scores = predicted().scores
    scores[np.flatnonzero(predicted().weights)[3]] = math.nan
    found = evaluated(folder, SETTINGS, scores=scores, rows_in_memory=100)
    told = ("rows", "base_rate", "groups", "groups_left_out")
    assert all(math.isnan(value) for name, value in found.metrics.items() if name not in told)
    assert found.metrics["rows"] == len(rows.labels)


def test_shifted_logits_and_ratings(folder: Path, rows: Predicted) -> None:
    scores, labels, weights = plain(rows)
    shifted = evaluated(folder, EvaluationSettings(logit_shift=-0.7)).metrics
    expected = binary_metrics(scores - 0.7, labels, weights)
    assert shifted == pytest.approx({name: expected[name] for name in shifted}, abs=1e-12)
    settings = EvaluationSettings(names=frozenset({"rmse", "mae"}), rating=True)
    found, expected = evaluated(folder, settings).metrics, rating_metrics(scores, labels, weights)
    assert {"rmse", "mae"} <= found.keys()
    assert found == pytest.approx({name: expected[name] for name in found}, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1] * 31 + [None] * 30, pa.int64()), [1, None]),
        (pa.array(["x"] * 31 + [None] * 30), ["x", None]),
        (pa.array(["None"] * 31 + [None] * 30), ["None", None]),
        (pa.array([True] * 31 + [None] * 30), [True, None]),
        (pa.array([datetime.date(2026, 1, 31)] * 31 + [None] * 30), ["2026-01-31", None]),
        (pa.array([["a", "b"]] * 31 + [None] * 30), ["['a', 'b']", None]),
    ],
)
def test_missing_values_and_numbers_stay_what_they_are(values: pa.Array, expected: list[Any]) -> None:
    segments = Segments()
    keys = segments.keys(values)
    found = segments.largest(2)
    assert json.loads(json.dumps([value for value, _ in found])) == expected
    assert [rows for _, rows in found] == [31, 30]
    assert segments.numbers(keys).tolist() == [0] * 31 + [1] * 30
    segments.largest(1)
    assert segments.numbers(keys).tolist() == [0] * 31 + [-1] * 30
