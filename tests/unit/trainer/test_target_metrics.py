"""Metrics of ranked targets: means over rows, by segment, and with intervals, against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.predicted import predicted, write_kept
from trainer.data import ReadPolicy
from trainer.data.kept import KeptColumns
from trainer.evaluation_settings import EvaluationSettings
from trainer.item_ranking import TargetRanks
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
