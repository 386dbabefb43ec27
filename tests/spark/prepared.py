"""Run configs for small frames, and prepared data sets read back as pandas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from trainer.config import RunConfig
from trainer.schema import Manifest


def make_run(
    *, name: str = "small", seed: int = 1, data: dict[str, Any] | None = None, **features: Any
) -> RunConfig:
    """Return a config with label column `label` and the given feature groups."""
    section = {"label": {"column": "label"}, **(data or {})}
    section["split"] = {"seed": seed, **section.get("split", {})}
    return RunConfig.from_dict(
        {"name": name, "data": section, "features": features, "model": {"name": "dlrm"}}
    )


def read_split(folder: Path, split: str) -> pd.DataFrame:
    """Return a split's rows in their order."""
    manifest = Manifest.load(folder)
    parts = [pq.read_table(folder / file.path).to_pandas() for file in manifest.splits[split].files]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def read_all(folder: Path, key: str) -> pd.DataFrame:
    """Return the rows of all splits with the column `split`, indexed by a kept column."""
    frames = [read_split(folder, split).assign(split=split) for split in ("train", "valid", "test")]
    rows = pd.concat([frame for frame in frames if len(frame) > 0], ignore_index=True)
    return rows.set_index(f"keep.{key}").sort_index()


def read_vocabulary(folder: Path, feature: str) -> pd.DataFrame:
    """Return the vocabulary of a feature sorted by id."""
    found = next(f for f in Manifest.load(folder).spec.features if f.name == feature)
    assert found.vocabulary is not None
    return (
        ds.dataset(folder / found.vocabulary).to_table().to_pandas().sort_values("id").reset_index(drop=True)
    )
