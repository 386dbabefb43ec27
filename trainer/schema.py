"""Feature spec and manifest: what a prepared data set holds. Imports neither torch nor Spark.

The feature spec (ops with their fitted numbers and vocabularies) is the only way raw rows become model
inputs. Its hash travels with checkpoints, which refuse data of another spec.

Id space of every id feature: 0 padding or missing, 1 out of vocabulary, then vocabulary ids from 2 in
frequency order (hash ops fill 1 up to `num_embeddings - 1`).

Prepared Parquet columns: each feature under its own name (dense float32, or list<float32> where rows hold
several numbers; one id, also of a vector, int64; lists of ids list<int64>), `label` float32 and
`label__<task>` of every task but the first (null where a row does not count for a task), `weight` float32
where the config names one, and the kept raw columns as `keep.<name>`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from sharding.files import write_atomically
from trainer.errors import DataError, SpecMismatchError
from trainer.records import CleaningStep, JoinedTable, LabelCounts, LabelTimes, Record, TaskLabel
from trainer.storage import Place, as_place, read_text

PADDING_ID = 0
OUT_OF_VOCABULARY_ID = 1
FIRST_VOCABULARY_ID = 2
LABEL_COLUMN = "label"
WEIGHT_COLUMN = "weight"
KEEP_PREFIX = "keep."
GROUP_COLUMN = "keep.negatives.group"
"""Shared by a positive and its negatives where `data.negatives` adds rows (int64)."""
MANIFEST_FILE = "manifest.json"
CATALOGUE_FOLDER = "items"
"""Features of the items, where `data.catalogue` names them: Parquet with `id` and a column for each."""
SYNTHETIC_FILE = "synthetic.json"
"""Lies in a folder of raw rows that `shardrec synth` made up."""
NUMBERS = "numbers"
"""Not an op of the registry: written first in the spec of a dense feature whose rows hold lists of numbers,
with their length `dim` and the `delimiter` of text."""
UNMATCHED_SHARE = 0.05
"""Share of rows without a match from which on a side table deserves a remark."""
SPLITS = ("train", "valid", "test")
SplitName = Literal["train", "valid", "test"]


class FittedOp(Record):
    """One op with every number that fitting gave it; applying it needs nothing else but its vocabulary."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)


def numbers_per_row(ops: Sequence[FittedOp]) -> int | None:
    """Return the length of the lists of numbers that a dense feature's rows hold; None for single values."""
    return ops[0].params["dim"] if ops and ops[0].name == NUMBERS else None


class VectorTable(Record):
    """The vectors of a `vector` feature, in the order of their ids."""

    folder: str
    """Inside the data set: float32 parts `part-00000.npy`, ...; row i of them all is that of id i + 2."""
    dim: int
    """Length of every vector."""
    digest: str
    """Of the set of ids with their vectors."""


class Feature(Record):
    """One model input."""

    name: str
    kind: Literal["dense", "sparse", "sequence", "vector"]
    """`vector`: the rows hold an id, and the model's dense input what `vectors` has for it."""
    column: str
    """Raw column, or the column that `derived` made."""
    derived: FittedOp | None = None
    """What made the column of several rows (`history`, `earlier`, `target_encoding`), before the ops."""
    ops: tuple[FittedOp, ...] = ()
    is_list: bool = False
    """Whether a row holds any number of ids (Parquet list), not one."""
    table: str | None = None
    """Embedding table; several features may name the same one. None for dense and vector features."""
    num_embeddings: int | None = None
    """Largest id + 1: rows of the embedding table. None for dense features."""
    vocabulary: str | None = None
    """Folder of the vocabulary inside the data set (Parquet columns `value`, `id`, `count`)."""
    vocabulary_hash: str | None = None
    """Digest of the vocabulary's values and ids."""
    vectors: VectorTable | None = None
    """What a vector feature looks up."""
    role: Literal["input", "target"] = "input"
    """`target`: ids to be found, of the same numbers as the inputs of its `table`; no model looks them up."""

    @property
    def dim(self) -> int | None:
        """Return the length of a row's list of numbers or vector; None for one number, and for ids."""
        return numbers_per_row(self.ops) if self.vectors is None else self.vectors.dim


class FeatureSpec(Record):
    """All inputs in model order, and the label."""

    features: tuple[Feature, ...]
    label: FittedOp
    """`label` op: params `column` and `positive_at_least`, and the other keys of the config where set; of a
    rating `mean` and `std` over the training rows as well. Of the first task where there are several."""
    labels: tuple[TaskLabel, ...] = ()
    """Of all tasks where the config names several; the first is `label`."""
    weight: str | None = None
    time_formats: dict[str, str] = Field(default_factory=dict)
    """`data.time_formats`: raw columns whose times are rewritten in ISO 8601 before any op."""

    @property
    def hash(self) -> str:
        """Return 16 hex digits over every op, fitted number and vocabulary."""
        values = self.model_dump(mode="json")
        for key in ("time_formats", "labels"):  # as it was before there were any
            if not values[key]:
                del values[key]
        for feature in (f for f in values["features"] if f["role"] == "input"):
            del feature["role"]
        text = json.dumps(values, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def tasks(self) -> tuple[TaskLabel, ...]:
        """Return the labels of all tasks, in the order of `Batch.labels_BT`."""
        return self.labels or (TaskLabel(name=LABEL_COLUMN, params=self.label.params),)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Return the prepared columns of the labels, in the order of the tasks."""
        return (LABEL_COLUMN, *(f"{LABEL_COLUMN}__{task.name}" for task in self.tasks[1:]))

    @property
    def dense(self) -> tuple[Feature, ...]:
        """Return the dense features in the column order of `Batch.dense_BF`: one column each, or `dim`."""
        return tuple(f for f in self.features if f.kind == "dense")

    @property
    def vectors(self) -> tuple[Feature, ...]:
        """Return the vector features, whose columns of `Batch.dense_BF` follow those of `dense`."""
        return tuple(f for f in self.features if f.kind == "vector")

    @property
    def dense_width(self) -> int:
        """Return the columns of `Batch.dense_BF`."""
        return sum(f.dim or 1 for f in (*self.dense, *self.vectors))

    @property
    def sparse(self) -> tuple[Feature, ...]:
        """Return the sparse and sequence features, in the key order of `Batch.sparse`."""
        return tuple(f for f in self.features if f.kind in ("sparse", "sequence"))

    @property
    def looked_up(self) -> tuple[Feature, ...]:
        """Return those of `sparse` that a model looks up: all but the target."""
        return tuple(f for f in self.sparse if f.role == "input")

    @property
    def target(self) -> Feature | None:
        """Return the feature of the ids to be found, where rows are those of users (`data.user_rows`)."""
        return next((f for f in self.sparse if f.role == "target"), None)

    @property
    def seen(self) -> tuple[Feature, ...]:
        """Return the input lists that number their ids as `target` does: what a user met before."""
        tables = [f.table for f in self.sparse if f.role == "target"]
        return tuple(f for f in self.looked_up if f.is_list and f.table in tables)

    def differences(self, other: FeatureSpec) -> list[str]:
        """Return one line for each thing in which `other` differs, naming the feature."""
        mine, theirs = ({f.name: f.model_dump() for f in spec.features} for spec in (self, other))
        lines = [f"feature {name!r}: only in the first" for name in mine if name not in theirs]
        lines += [f"feature {name!r}: only in the second" for name in theirs if name not in mine]
        pairs = [(f"feature {name!r}: ", mine[name], theirs[name]) for name in mine.keys() & theirs.keys()]
        rest = [spec.model_dump(exclude={"features"}) for spec in (self, other)]
        for where, a, b in [*pairs, ("", rest[0], rest[1])]:
            lines += [f"{where}{key} {a[key]!r} != {b[key]!r}" for key in a if a[key] != b[key]]
        if not lines and list(mine) != list(theirs):
            lines.append("features: in another order")
        return sorted(lines)


class PartFile(Record):
    """One Parquet file of a split."""

    path: str
    """Relative to the data set folder."""
    rows: int
    row_groups: tuple[int, ...]
    """Rows of each row group."""
    bytes: int


class Split(Record):
    """One split; its rows are numbered 0 to `rows - 1` through the files in order."""

    rows: int
    positives: int
    """Rows with label 1 of the first task; 0 where that is a rating."""
    files: tuple[PartFile, ...]
    negatives_kept: float = 1.0
    """Share of the rows with label 0, of the first task, that is left of those dealt into the split."""
    labels: dict[str, LabelCounts] = Field(default_factory=dict)
    """By task, where there are several or the label is a rating."""

    @property
    def labelled(self) -> int:
        """Return the rows that count for the first task."""
        return next((found.rows for found in self.labels.values()), self.rows)


class FeatureStatistics(Record):
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


class Appended(Record):
    """Rows of a later day that were added to a data set."""

    created: str
    """UTC time, ISO 8601."""
    mode: Literal["frozen", "grow"]
    """Whether vocabularies stayed as they were, or got new values."""
    rows: dict[SplitName, int]
    fingerprint: str
    """Digest of the set of raw rows."""
    raw: dict[str, Any] | None = None
    """As the manifest's own."""
    into: SplitName | None = None
    """Split of all its rows, where one was named; else the config dealt them."""
    until: tuple[str | int | float, ...] | None = None
    """`data.split.until` by which they were dealt."""


class Manifest(Record):
    """What a data set folder holds; written last, so that a folder without it is no data set."""

    format_version: Literal[1] = 1
    name: str
    created: str
    """UTC time, ISO 8601."""
    seed: int
    config_hash: str
    """`RunConfig.preparation_hash()` of the config that prepared it, or added the newest rows."""
    preparation: dict[str, Any] = Field(default_factory=dict)
    """`RunConfig.preparation()` of that config, to name what differs."""
    spec: FeatureSpec
    splits: dict[SplitName, Split]
    statistics: dict[str, FeatureStatistics]
    label_times: LabelTimes | None = None
    """None where the config names no time."""
    raw: dict[str, Any] | None = None
    """`root`, `source` and `joins` of the raw rows, absolute; None when they came as a DataFrame."""
    cleaning: tuple[CleaningStep, ...] = ()
    """Rules of `data.clean` in their order."""
    joins: tuple[JoinedTable, ...] = ()
    """Side tables, in the order of the config."""
    remarks: tuple[str, ...] = ()
    """What is odd about the rows but was accepted, such as users with too few events."""
    fingerprint: str = ""
    """Digest of the set of raw rows, to know them again."""
    appended: tuple[Appended, ...] = ()
    """What was added to the first rows, in its order."""
    synthetic: bool = False
    """Whether the raw rows were made up."""
    vectors_in: str | None = None
    """Folder that holds the vectors, where they are not in this data set."""
    files_in: str | None = None
    """Folder inside the data set that holds all else, where it took the place of another one on a store."""
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def user_row_splits(self) -> tuple[str, ...]:
        """Return the splits whose rows are those of users, with targets to be found."""
        return tuple(split for split in self._user_rows.get("splits", ()) if split != "train")

    @property
    def ranks_seen(self) -> bool:
        """Return whether items that rows of users list may be to be found (`UserRowsConfig.ranks_seen`)."""
        return not self._user_rows.get("drop_seen", True) and self._user_rows.get("hold_out") is None

    @property
    def _user_rows(self) -> dict[str, Any]:
        return (self.preparation.get("data") or {}).get("user_rows") or {}

    @classmethod
    def load(cls, folder: str | Place) -> Manifest:
        """Read `manifest.json` of a data set folder (or the file itself), local or on a store.

        Raises:
            DataError: the folder holds no manifest, or the manifest is damaged.
            StoreError: the store cannot be read.
        """
        path = as_place(folder)
        path = path if str(path).endswith(".json") else path / MANIFEST_FILE
        try:
            return cls.model_validate_json(read_text(path))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                "not a data set: it has no readable manifest",
                where=str(path),
                got="not text" if isinstance(error, UnicodeDecodeError) else os.strerror(error.errno or 2),
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
        write_atomically(path, self.as_text())
        return path

    def as_text(self) -> str:
        """Return the content of `manifest.json`."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False)

    def folder_in(self, dataset: str | Place) -> Place:
        """Return the folder that the files named here lie in.

        Args:
            dataset: the data set folder.
        """
        place = as_place(dataset)
        return place if self.files_in is None else place / self.files_in

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

    def logit_shift(self, split: str, trained_on: Manifest) -> float:
        """Return what to add to the first task's logits on a split, so that they fit its share of positives.

        A model that saw a share w of the negatives predicts odds that are 1/w of what they are among all
        rows; the shift is log(w), less that of the split itself where it was down-sampled too.

        Args:
            split: split of this data set.
            trained_on: manifest of the data set that the model was trained on.

        Source: He et al. 2014, Practical Lessons from Predicting Clicks on Ads, section 6.3:
        q = p / (p + (1 - p) / w).
        """
        return math.log(trained_on._negatives_kept("train") / self._negatives_kept(split))

    def _negatives_kept(self, name: str) -> float:
        return next((split.negatives_kept for key, split in self.splits.items() if key == name), 1.0)

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
