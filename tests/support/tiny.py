"""A run of seconds on a data set that was written without Spark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs import Dataset, RunConfig
from tests.support.datasets import write_dataset

CONFIG: dict[str, Any] = {
    "name": "tiny",
    "data": {"label": {"column": "y"}, "num_lanes": 4},
    "features": {"dense": [{"columns": "d*"}], "sparse": [{"columns": ["s*", "m*"], "pooling": "sum"}]},
    "model": {"name": "dlrm", "embedding_dim": 8},
    "train": {
        "global_batch_size": 64,
        "epochs": 2,
        "max_steps": 12,
        "log_every_steps": 5,
        "checkpoint_every_steps": 4,
    },
}


def tiny_data(folder: Path, run: RunConfig, **options: Any) -> Dataset:
    """Write 1,000 training rows and 200 of each other split, as if `run` had prepared them."""
    rows = {"train": 1000, "valid": 200, "test": 200}
    written = write_dataset(folder, **{"rows": rows, "num_sequences": 0, **options})
    prepared_as = {"config_hash": run.preparation_hash(), "preparation": run.preparation()}
    written.manifest.model_copy(update=prepared_as).save(folder)
    return Dataset.open(folder)
