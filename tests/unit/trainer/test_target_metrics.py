"""Metrics of ranked targets: means over rows, by segment, and with intervals, against numpy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.predicted import predicted, write_kept
from trainer.config import RunConfig
from trainer.config.metrics import METRICS
from trainer.data import ReadPolicy
from trainer.data.kept import KeptColumns
from trainer.errors import ConfigError
from trainer.evaluation_settings import EvaluationSettings, target_settings
from trainer.item_categories import ItemCategories
from trainer.item_ranking import TargetRanks
from trainer.metrics import (
    average_popularity,
    catalogue_coverage,
    category_diversity,
    gini_index,
    interval,
    novelty,
    popular_share,
    resample_counts,
)
from trainer.schema import Manifest
from trainer.target_metrics import target_metrics

ROWS = np.arange(0, 900, 2)


def test_segments_are_those_of_the_rows_and_make_up_the_whole(tmp_path: Path) -> None:
    write_kept(tmp_path)
    rng = np.random.default_rng(0)
    weights, places = rng.random(len(ROWS)), rng.integers(1, 20, len(ROWS))
    positives = np.where(rng.random(len(ROWS)) < 0.1, 0, 1)
    ranked = np.flatnonzero(positives)
    ranks = TargetRanks(
        rows_L=ROWS,
        weights_L=weights,
        positives_L=positives,
        list_P=ranked,
        rank_P=places[ranked],
        top_LK=np.zeros((len(ROWS), 0), np.int64),
    )
    kept = KeptColumns(tmp_path, Manifest.load(tmp_path), "test", ReadPolicy())
    settings = EvaluationSettings(names=frozenset({"hr"}), at=(5,), by="country", confidence=0.9)
    found = target_metrics(ranks, settings, kept, None)

    hit, counted = places <= 5, positives > 0
    assert found.metrics["hr@5"] == pytest.approx(np.average(hit[counted], weights=weights[counted]))
    assert found.metrics["rows_without_targets"] == (~counted).sum()
    low, high = found.intervals["hr@5"]
    assert low < found.metrics["hr@5"] < high
    countries = predicted().countries[ROWS]
    assert len(found.segments) == 5
    for segment in found.segments:
        here = countries == segment["value"]
        assert segment["rows"] == here.sum()
        expected = np.average(hit[here & counted], weights=weights[here & counted])
        assert segment["metrics"]["hr@5"] == pytest.approx(expected)


LIST_NAMES = frozenset(name for name, metric in METRICS.items() if metric.recommended)


def _with_lists(seed: int) -> tuple[TargetRanks, ItemCategories, torch.Tensor]:
    """Return ranks with lists of up to five of 30 items and weights 0, 1 and 2; some have no targets."""
    rng = np.random.default_rng(seed)
    rows, positives = len(ROWS), rng.integers(0, 3, len(ROWS))
    lists = np.stack([rng.permutation(np.arange(2, 32))[:5] for _ in range(rows)])
    lists[rng.random(rows) < 0.2, 3:] = 0
    list_P = np.repeat(np.arange(rows), positives)
    rank_P = rng.integers(1, 9, len(list_P)) * 2 + (np.diff(list_P, prepend=-1) == 0)
    figures = {"history_popularity": rng.random(rows) * 50, "serendipity": rng.random(rows)}
    figures["history_popularity"][::7] = np.nan
    weights = rng.integers(0, 3, rows).astype(float)
    of_items = ItemCategories(np.arange(33), rng.integers(0, 4, 32))
    counts = torch.cat([torch.zeros(2, dtype=torch.int64), torch.arange(1, 31)])
    return TargetRanks(ROWS, weights, positives, list_P, rank_P, lists, figures), of_items, counts


def _of_lists(ranks: TargetRanks, categories: ItemCategories, counts: np.ndarray, chosen: np.ndarray) -> Any:
    """Return the metrics of lists; a row of weight 2 is there twice."""
    rows = np.repeat(np.flatnonzero(chosen), ranks.weights_L[chosen].astype(int))
    once, many = (np.where(ranks.top_LK[x] > 0, ranks.top_LK[x], 1) - 2 for x in (np.unique(rows), rows))
    histories, targets = ranks.figures["history_popularity"][rows], ranks.positives_L[rows] > 0
    return {
        "coverage": catalogue_coverage(once, 30),
        "gini": gini_index(once, 30),
        "novelty": novelty(many, counts, counts.sum()),
        "popularity": average_popularity(many, counts),
        "popular_share": popular_share(many, counts),
        "popularity_lift": average_popularity(many, counts) / np.nanmean(histories) - 1,
        "intra_list_diversity": category_diversity(many, categories.begins_E1[2:], categories.categories_H),
        "serendipity": ranks.figures["serendipity"][rows][targets].mean(),
    }


def test_metrics_of_lists_count_weights_and_have_segments_and_intervals(tmp_path: Path) -> None:
    write_kept(tmp_path)
    kept = KeptColumns(tmp_path, Manifest.load(tmp_path), "test", ReadPolicy())
    ranks, categories, counts = _with_lists(1)
    settings = EvaluationSettings(names=LIST_NAMES, at=(5,), by="country", confidence=0.9)
    found = target_metrics(ranks, settings, kept, counts, categories)
    assert found.metrics["rows"] == ((ranks.weights_L > 0) & (ranks.positives_L > 0)).sum()
    # A row of weight 0 may well have targets.
    assert found.metrics["rows_without_targets"] == (ranks.positives_L == 0).sum()
    countries, places = predicted().countries[ROWS], {}
    for part in found.segments:
        places[part["value"]] = part
    assert len(places) == 5
    whole = {"metrics": found.metrics, "intervals": found.intervals}
    for chosen, part in [
        (np.ones(len(ROWS), bool), whole),
        *((countries == value, part) for value, part in places.items()),
    ]:
        expected = _of_lists(ranks, categories, counts[2:].numpy(), chosen)
        assert {name: part["metrics"][name] for name in LIST_NAMES} == pytest.approx(expected, rel=1e-12)
        assert part["intervals"].keys() == LIST_NAMES - {"coverage", "gini"}
        for name, (low, high) in part["intervals"].items():
            assert low < part["metrics"][name] < high


def test_blocks_of_rows_give_the_intervals_of_all_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, categories, counts = _with_lists(2)
    names = LIST_NAMES | {"hr", "mrr", "ndcg"}
    settings = EvaluationSettings(names=names, at=(1, 5), confidence=0.9, resamples=40, seed=3)
    at_once = target_metrics(ranks, settings, None, counts, categories)
    weights = ranks.weights_L * (ranks.positives_L > 0)
    best = np.full(len(ROWS), np.inf)
    np.minimum.at(best, ranks.list_P, ranks.rank_P)
    drawn = weights[:, None] * resample_counts(ROWS, 40, 3)
    for name, values in (("hr@5", best <= 5), ("mrr", 1 / best)):
        assert at_once.metrics[name] == pytest.approx(np.average(values, weights=weights), rel=1e-12)
        means = (drawn * values[:, None]).sum(axis=0) / drawn.sum(axis=0)
        assert at_once.intervals[name] == pytest.approx(interval(means, 0.9), rel=1e-12)

    sizes: list[int] = []

    def counted(units: np.ndarray, resamples: int, seed: int) -> np.ndarray:
        sizes.append(len(units) * resamples)
        return resample_counts(units, resamples, seed)

    monkeypatch.setattr("trainer.target_metrics._NUMBERS_AT_ONCE", 500)
    monkeypatch.setattr("trainer.target_metrics.resample_counts", counted)
    in_blocks = target_metrics(ranks, settings, None, counts, categories)
    assert (in_blocks.metrics, in_blocks.intervals) == (at_once.metrics, at_once.intervals)
    assert max(sizes) <= 500
    plain = target_metrics(ranks, replace(settings, confidence=None), None, counts, categories)
    assert (plain.metrics, plain.intervals) == (at_once.metrics, {})


BEYOND = ("coverage", "gini", "popularity_lift", "serendipity", "intra_list_diversity")


def test_metrics_of_recommended_lists_are_those_worked_out_by_hand() -> None:
    # Five ids: 0 and 1 are no items, item 4 was in no training row and does not count as of the catalogue.
    counts = torch.tensor([0, 0, 6, 2, 0])
    ranks = TargetRanks(
        rows_L=np.arange(3),
        weights_L=np.ones(3),
        positives_L=np.array([1, 1, 0]),
        list_P=np.array([0, 1]),
        rank_P=np.array([1, 2]),
        top_LK=np.array([[2, 3], [3, 0], [2, 3]]),
        figures={
            "history_popularity": np.array([2.0, np.nan, 6.0]),
            "serendipity": np.array([0.5, 0.0, np.nan]),
            "diversity": np.array([0.25, np.nan, 0.75]),
        },
    )
    settings = EvaluationSettings(names=frozenset(BEYOND), at=(2,))
    found = target_metrics(ranks, settings, None, counts).metrics
    assert found["coverage"] == 1.0
    assert found["gini"] == pytest.approx((3 - 2) / (2 * (3 + 2)))
    # Lists have popularity 4, 2 and 4, histories 2 and 6.
    assert found["popularity_lift"] == pytest.approx((10 / 3) / 4 - 1)
    assert found["serendipity"] == 0.25
    assert found["intra_list_diversity"] == 0.5

    # Items 2 and 3 have one category each, that they share.
    categories = ItemCategories(np.array([0, 0, 0, 1, 2, 2]), np.array([7, 7]))
    by_category = target_metrics(ranks, settings, None, counts, categories).metrics
    assert by_category["intra_list_diversity"] == 0.0
    # Without categories or vectors there is nothing to tell items apart by.
    plain = TargetRanks(*(getattr(ranks, name) for name in list(vars(ranks))[:6]))
    assert "intra_list_diversity" not in target_metrics(plain, settings, None, counts).metrics


def _run(train: dict[str, Any] | None = None, /, **metrics: Any) -> RunConfig:
    return RunConfig.from_dict(
        {
            "name": "songs",
            "data": {
                "source": {"path": "plays.parquet"},
                "label": {"implicit": True},
                "split": {"method": "leave_last", "leave_last": {"user": "user", "time": "time"}},
                "user_rows": {
                    "by": "user",
                    "order_by": "time",
                    "lists": {"seen": "song"},
                    "targets": "song",
                },
            },
            "features": {"sequence": [{"columns": "seen", "ops": ["vocabulary"], "pooling": "none"}]},
            "model": {"name": "sasrec"},
            "metrics": metrics,
            "train": train or {},
        }
    )


@pytest.mark.parametrize(
    ("metrics", "items", "allowed"),
    [({"at": [5, 50]}, 50, "below 50"), ({"at": [11], "candidates": 10}, 50, "below 11")],
)
def test_a_k_at_which_every_target_is_found_is_an_error(
    metrics: dict[str, Any], items: int, allowed: str
) -> None:
    with pytest.raises(ConfigError, match=rf"metrics\.at(.|\n)*{allowed}"):
        target_settings(_run(**metrics), items)


def test_usual_ks_are_those_below_the_number_of_items() -> None:
    assert target_settings(_run(), 50).at == (5, 10, 20)
    assert target_settings(_run(), 20).at == (5, 10)
    assert target_settings(_run(candidates=7), 50).at == (5,)
    assert target_settings(_run(), 3).at == ()


@pytest.mark.parametrize("key", ["early_stopping", "plateau"])
def test_evaluations_are_not_compared_by_a_k_that_is_left_out(key: str) -> None:
    by_ten = {key: {"metric": "ndcg@10"}}
    assert target_settings(_run(by_ten), 11).at == (5, 10)
    with pytest.raises(ConfigError, match=rf"{key}\.metric(.|\n)*ndcg@10(.|\n)*K below 10(.|\n)*\[5\]"):
        target_settings(_run(by_ten), 10)
    with pytest.raises(
        ConfigError, match=rf"K below 4(.|\n)*train\.{key}\.metric: ndcg@3, and metrics.at: \[3\]"
    ):
        target_settings(_run(by_ten), 4)
    # Drawn candidates are known from the config alone.
    assert target_settings(_run(by_ten, candidates=10), 50).at == (5, 10)
    with pytest.raises(
        ConfigError, match=rf"{key}\.metric(.|\n)*K below 8(.|\n)*train\.{key}\.metric: ndcg@5"
    ):
        _run(by_ten, candidates=7)


def test_metrics_of_lists_need_a_k() -> None:
    assert target_settings(_run(names=["coverage"], candidates=6), 50).at == (5,)
    message = r"`coverage`(.|\n)*{}(.|\n)*numbers below 5(.|\n)*metrics\.at: \[4\]"
    with pytest.raises(ConfigError, match=message.format(r"metrics\.names")):
        target_settings(_run(names=["coverage", "mrr"], candidates=4), 50)
    with pytest.raises(ConfigError, match=message.format(r"train\.plateau\.metric")):
        target_settings(_run({"plateau": {"metric": "coverage"}}), 5)
