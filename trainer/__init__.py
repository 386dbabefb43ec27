"""Batches, models, training loop, metrics and checkpoints on torch; never imports Spark.

Nothing is imported here, so that `trainer.config` and `trainer.schema` stay usable without torch.
"""
