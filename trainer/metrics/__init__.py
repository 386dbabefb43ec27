"""Metrics of predictions, on numpy arrays."""

from trainer.metrics.binary import binary_metrics, roc_auc, sigmoid

__all__ = ["binary_metrics", "roc_auc", "sigmoid"]
