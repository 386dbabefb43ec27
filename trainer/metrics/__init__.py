"""Metrics of predictions and of ranked lists, on numpy arrays."""

from trainer.metrics.binary import BinarySums, binary_metrics, roc_auc, sigmoid
from trainer.metrics.bootstrap import interval, resample_counts
from trainer.metrics.grouped import Groups, gauc, group_values
from trainer.metrics.ranking import Ranked, ranking_metrics, ranking_values
from trainer.metrics.rating import RatingSums, rating_metrics
from trainer.metrics.recommended import (
    average_popularity,
    catalogue_coverage,
    category_diversity,
    gini_index,
    intra_list_diversity,
    novelty,
    popular_share,
    popularity_lift,
    serendipity,
)

__all__ = [
    "BinarySums",
    "Groups",
    "Ranked",
    "RatingSums",
    "average_popularity",
    "binary_metrics",
    "catalogue_coverage",
    "category_diversity",
    "gauc",
    "gini_index",
    "group_values",
    "interval",
    "intra_list_diversity",
    "novelty",
    "popular_share",
    "popularity_lift",
    "ranking_metrics",
    "ranking_values",
    "rating_metrics",
    "resample_counts",
    "roc_auc",
    "serendipity",
    "sigmoid",
]
