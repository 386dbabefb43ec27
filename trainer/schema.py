"""Feature spec and manifest: what a prepared data set holds. Imports neither torch nor Spark.

The feature spec (ops with their fitted numbers and vocabularies) is the only way raw rows become model
inputs. Its hash travels with checkpoints, which refuse data of another spec.

Id space of every id feature: 0 padding or missing, 1 out of vocabulary, then vocabulary ids from 2 in
frequency order (hash ops fill 1 up to `num_embeddings - 1`).

Prepared Parquet columns: each feature under its own name (dense float32; one id int64; lists of ids
list<int64>), `label` float32, `weight` float32 where the config names one, and the kept raw columns as
`keep.<name>`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharding.files import write_atomically
from trainer.errors import DataError, SpecMismatchError

PADDING_ID = 0
OUT_OF_VOCABULARY_ID = 1
FIRST_VOCABULARY_ID = 2
LABEL_COLUMN = "label"
WEIGHT_COLUMN = "weight"
KEEP_PREFIX = "keep."
MANIFEST_FILE = "manifest.json"
SPLITS = ("train", "valid", "test")
SplitName = Literal["train", "valid", "test"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FittedOp(_Record):
    """One op with every number that fitting gave it; applying it needs nothing else but its vocabulary."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)


class Feature(_Record):
    """One model input."""

    name: str
    kind: Literal["dense", "sparse", "sequence"]
    column: str
    """Raw column; for a history the item column."""
    ops: tuple[FittedOp, ...] = ()
    is_list: bool = False
    """True where a row holds any number of ids (Parquet list), False where it holds one value."""
    table: str | None = None
    """Embedding table; several features may name the same one. None for dense features."""
    num_embeddings: int | None = None
    """Rows of the table: largest id + 1. None for dense features."""
    vocabulary: str | None = None
    """Folder of the vocabulary inside the data set (Parquet columns `value`, `id`, `count`)."""
    vocabulary_hash: str | None = None
    """Digest of the vocabulary's values and ids."""


class FeatureSpec(_Record):
    """All inputs in model order, and the label."""

    features: tuple[Feature, ...]
    label: FittedOp
    """`label` op: params `column` and `positive_at_least`."""
    weight: str | None = None

    @property
    def hash(self) -> str:
        """Return 16 hex digits over every op, fitted number and vocabulary."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def dense(self) -> tuple[Feature, ...]:
        """Return the dense features, in the column order of `Batch.dense_BF`."""
        return tuple(f for f in self.features if f.kind == "dense")

    @property
    def sparse(self) -> tuple[Feature, ...]:
        """Return the sparse and sequence features, in the key order of `Batch.sparse`."""
        return tuple(f for f in self.features if f.kind != "dense")

    def differences(self, other: FeatureSpec) -> list[str]:
        """Return one line for each thing in which `other` differs, naming the feature."""
        mine = {f.name: f for f in self.features}
        theirs = {f.name: f for f in other.features}
        lines = [f"feature {name!r}: only in the first" for name in mine if name not in theirs]
        lines += [f"feature {name!r}: only in the second" for name in theirs if name not in mine]
        for name in mine.keys() & theirs.keys():
            a, b = mine[name].model_dump(), theirs[name].model_dump()
            lines += [f"feature {name!r}: {key} {a[key]!r} != {b[key]!r}" for key in a if a[key] != b[key]]
        if self.label != other.label:
            lines.append(f"label: {self.label.params} != {other.label.params}")
        if self.weight != other.weight:
            lines.append(f"weight: {self.weight!r} != {other.weight!r}")
        if not lines and [f.name for f in self.features] != [f.name for f in other.features]:
            lines.append("features: in another order")
        return sorted(lines)


class PartFile(_Record):
    """One Parquet file of a split."""

    path: str
    """Relative to the data set folder."""
    rows: int
    row_groups: tuple[int, ...]
    """Rows of each row group."""
    bytes: int


class Split(_Record):
    """One split; its rows are numbered 0 to `rows - 1` through the files in order."""

    rows: int
    positives: int
    files: tuple[PartFile, ...]


class FeatureStatistics(_Record):
    """What `prepare` saw in the training rows of one feature."""

    ids: int | None = None
    """Distinct ids. None for dense features."""
    mean_length: float = 1.0
    """Mean number of ids per row: the pooling factor of the planner."""
    null_share: float = 0.0
    oov_share: float | None = None
    """Share of ids out of vocabulary, over all splits but train; None for dense features."""
    train_oov_share: float | None = None
    """The same over the training rows: values below `min_count` or beyond `max_size`."""
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None


class Manifest(_Record):
    """What a data set folder holds; written last, so that a folder without it is no data set."""

    format_version: Literal[1] = 1
    name: str
    created: str
    """UTC time, ISO 8601."""
    seed: int
    config_hash: str
    """`RunConfig.preparation_hash()` of the config that prepared it."""
    preparation: dict[str, Any] = Field(default_factory=dict)
    """`RunConfig.preparation()` of that config, to name what differs."""
    spec: FeatureSpec
    splits: dict[SplitName, Split]
    statistics: dict[str, FeatureStatistics]
    raw: dict[str, Any] | None = None
    """`root`, `source` and `joins` of the raw rows, absolute; None when they came as a DataFrame."""
    synthetic: bool = False
    versions: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read `manifest.json` of a data set folder (or the file itself).

        Raises:
            DataError: the folder holds no manifest, or the manifest is damaged.
        """
        path = Path(folder)
        path = path / MANIFEST_FILE if path.suffix != ".json" else path
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                "not a data set: it has no readable manifest",
                where=str(path),
                got=getattr(error, "strerror", None) or "not text",
                fixes=["prepare it first: shardrec prepare CONFIG --out FOLDER"],
            ) from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"the manifest is damaged: {first['msg']}",
                where=f"{path}: {key}",
                fixes=["prepare the data set again"],
            ) from error

    def save(self, folder: str | Path) -> Path:
        """Write `manifest.json` atomically and return its path."""
        path = Path(folder) / MANIFEST_FILE
        write_atomically(path, json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False))
        return path

    def require_spec(self, spec: FeatureSpec, where: str) -> None:
        """Refuse inputs of another feature spec than this data set's.

        Raises:
            SpecMismatchError: naming what differs.
        """
        if spec.hash != self.spec.hash:
            raise SpecMismatchError(
                "the data set was prepared with another feature spec than the model was trained on",
                where=where,
                got=f"spec {spec.hash}; " + "; ".join(self.spec.differences(spec)[:5]),
                allowed=f"spec {self.spec.hash}",
                fixes=["use the data set of the run", "train again on this data set"],
            )

    def split(self, name: str) -> Split:
        """Return one split.

        Raises:
            DataError: the data set has no such split, or it has no rows.
        """
        split = next((value for key, value in self.splits.items() if key == name), None)
        if split is None or split.rows == 0:
            filled = [key for key, value in self.splits.items() if value.rows > 0]
            raise DataError(f"the data set has no rows in split {name!r}", where=self.name, allowed=filled)
        return split
