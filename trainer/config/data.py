"""Config sections `data` and `features`: where rows come from and what is made of them."""

from __future__ import annotations

import codecs
import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from trainer.config.base import LARGEST_SEED, Section

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+:")
# Which options each format reads; a table has none.
_OPTIONS = {
    "csv": {"delimiter", "header", "columns", "encoding", "multi_line", "null_values"},
    "tsv": {"delimiter", "header", "columns", "encoding", "null_values"},
    "json": {"encoding"},
}
# Spark takes Java's names, and since 4.0 no aliases of them.
_JAVA_CHARSETS = {
    "ascii": "US-ASCII", "iso8859-1": "ISO-8859-1", "utf-8": "UTF-8", "utf-8-sig": "UTF-8",
    "utf-16": "UTF-16", "utf-16-be": "UTF-16BE", "utf-16-le": "UTF-16LE", "utf-32": "UTF-32",
}  # fmt: skip


def is_absolute(path: str) -> bool:
    """Return whether a path or URL stays the same under any `data.root`."""
    return path.startswith("/") or _SCHEME.match(path) is not None


def java_charset(encoding: str) -> str:
    """Return the name that Spark knows an encoding by; `latin-1` is `ISO-8859-1`."""
    return _JAVA_CHARSETS.get(codecs.lookup(encoding).name, encoding)


def expand_range(name: str) -> list[str]:
    """Return `["I1", "I2", "I3"]` for `I1..I3`, `["I01", "I02"]` for `I01..I02`, `[name]` for a plain name.

    Raises:
        ValueError: the range runs backwards.
    """
    match = re.fullmatch(r"(.*?)(\d+)\.\.\1(\d+)", name)
    if match is None:
        return [name]
    prefix, first, last = match.groups()
    if int(first) > int(last):
        raise ValueError(f"the range `{name}` runs backwards: write `{prefix}{last}..{prefix}{first}`")
    digits = len(first) if first.startswith("0") else 0
    return [f"{prefix}{number:0{digits}d}" for number in range(int(first), int(last) + 1)]


def _no_name_twice(names: list[str], what: str) -> None:
    """Check that no name comes twice; Spark compares names without case."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.get(name.lower())
        if other is not None:
            both = f"`{name}`" if other == name else f"`{other}` and `{name}`, which Spark takes for one"
            raise ValueError(f"{what} names a column twice: {both}")
        seen[name.lower()] = name


class SourceConfig(Section):
    """Raw rows: files (CSV, TSV, Parquet, JSON lines) or a table name; exactly one of `path` and `table`."""

    path: str | list[str] | None = None
    """File, folder or glob, or a list of them; relative to `data.root`."""
    table: str | None = None
    """Name of a Spark table, for instance `ads.clicks`."""
    format: Literal["csv", "tsv", "parquet", "json"] | None = None
    """File format; by default read from the file name."""
    delimiter: str | None = Field(default=None, min_length=1)
    """Column delimiter of CSV (default `,`) and TSV (default tab); several characters are allowed (`::`)."""
    header: bool = False
    """Whether the first line of a CSV or TSV file names the columns."""
    columns: list[str] | None = None
    """Column names of a CSV or TSV file without a header, in file order; `I1..I13` stands for thirteen."""
    encoding: str = "utf-8"
    """Character encoding of CSV, TSV and JSON files."""
    multi_line: bool = False
    """Whether quoted fields of a CSV file may hold line breaks; one task then reads each file as a whole."""
    null_values: list[str] | None = None
    """Words of a CSV or TSV file that mean a missing value, like an empty field; for instance `[NA, nan]`."""

    @field_validator("columns")
    @classmethod
    def _ranges(cls, columns: list[str] | None) -> list[str] | None:
        if columns is None:
            return None
        names = [name for item in columns for name in expand_range(item)]
        _no_name_twice(names, "the source")
        return names

    @field_validator("delimiter")
    @classmethod
    def _tab(cls, delimiter: str | None) -> str | None:
        # YAML keeps `\t` without double quotes as two characters.
        return None if delimiter is None else delimiter.replace("\\t", "\t")

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            "".encode(encoding)
        except (LookupError, ValueError) as error:
            raise ValueError(f"unknown encoding `{encoding}`: try UTF-8, ISO-8859-1 or US-ASCII") from error
        return encoding

    @model_validator(mode="after")
    def _one_origin(self) -> SourceConfig:
        if self.path is not None and self.table is not None:
            raise ValueError("give `path` or `table`, not both")
        if self.header and self.columns:
            raise ValueError("give `header: true` or `columns`, not both")
        kind = "table" if self.table is not None else self.format
        ignored = [] if kind is None else self.ignored_options(kind)
        if ignored:
            what = "a table" if kind == "table" else f"`format: {kind}`"
            raise ValueError(f"`{ignored[0]}` means nothing for {what}: leave it out")
        return self

    def ignored_options(self, kind: str) -> list[str]:
        """Return the options that are set but mean nothing for a format, or for `table`."""
        unread = _OPTIONS["csv"] - _OPTIONS.get(kind, set()) | ({"format"} if kind == "table" else set())
        fields = type(self).model_fields
        return [name for name in fields if name in unread and getattr(self, name) != fields[name].default]

    def paths(self) -> list[str]:
        """Return `path` as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path or [])


class JoinConfig(Section):
    """A side table joined (left) to the rows, such as users or items."""

    source: SourceConfig
    on: list[str] = Field(min_length=1)
    """Key columns, named the same on both sides; they must be unique in the side table."""


class LabelConfig(Section):
    """The binary label."""

    column: str
    """Raw column."""
    positive_at_least: float | None = None
    """Label is 1 where the column is at least this, else 0; without it the column itself holds 0 and 1."""


class SplitConfig(Section):
    """How rows are dealt into train, valid and test."""

    method: Literal["random", "time"] = "random"
    """`random`: by a seeded hash of the whole raw row; `time`: the oldest rows train, the newest test."""
    column: str | None = None
    """Time column of `method: time`."""
    fractions: tuple[float, float, float] = Field(default=(0.8, 0.1, 0.1), strict=False)
    """Shares of train, valid and test; they sum to 1. A share of 0 leaves that split empty."""
    seed: int = Field(default=1, ge=0, le=LARGEST_SEED)
    """Fixes who is in which split, and the order of the prepared rows."""

    @model_validator(mode="after")
    def _consistent(self) -> SplitConfig:
        if self.method == "time" and self.column is None:
            raise ValueError("`method: time` needs `column`")
        if abs(sum(self.fractions) - 1.0) > 1e-9 or min(self.fractions) < 0 or self.fractions[0] <= 0:
            raise ValueError("`fractions` must be three numbers >= 0 that sum to 1, the first above 0")
        return self


class OpConfig(Section):
    """One feature op: `log1p`, or `clip: {min: 0}`, or `fill: 0` for ops with one main parameter."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)
    value: Any = None
    """The bare value of the short form `fill: 0`; the op's own signature says which parameter it means."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"name": data}
        if isinstance(data, dict) and len(data) == 1 and "name" not in data:
            name, value = next(iter(data.items()))
            if isinstance(value, dict):
                return {"name": name, "params": value}
            return {"name": name, "value": value}
        return data


class HistoryConfig(Section):
    """A user's earlier events as a sequence feature: strictly earlier in time than the row itself."""

    user: str
    """Column of the user id."""
    item: str
    """Column of the item id that the history lists."""
    time: str
    """Column of the event time; events with the same time as the row are not in its history."""
    max_length: int = Field(default=50, ge=1)
    """The newest events are kept, in time order, oldest first."""
    where: str | None = None
    """Spark SQL condition on one event, for instance `rating >= 4`; without it every event counts. A text
    column beside a number counts as a number."""


class FeatureGroup(Section):
    """Columns that share their ops; globs (`I*`) stand for many columns."""

    columns: str | list[str] | None = None
    """Raw column, glob, or a list of them. Each matching column becomes one feature of the same name."""
    name: str | None = None
    """Name of the feature when it is not the column's; only for a group of one column or a history."""
    history: HistoryConfig | None = None
    """Builds the sequence from earlier events instead of a raw column; only under `sequence`."""
    ops: list[OpConfig] = Field(default_factory=list)
    """Applied from left to right."""
    embedding_dim: int | None = Field(default=None, ge=1)
    """Width of the table; default `tables.<glob>.embedding_dim`, else the model's. Not for dense features."""
    pooling: Literal["sum", "mean", "none"] = "sum"
    """How a list's embeddings become one vector. `none` keeps the sequence for the model to pool."""
    table: str | None = None
    """Share the table, vocabulary and id numbers of another feature, by that feature's name."""

    @field_validator("ops", mode="before")
    @classmethod
    def _single_op(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, dict)) else value

    @model_validator(mode="after")
    def _named(self) -> FeatureGroup:
        if (self.columns is None) == (self.history is None):
            raise ValueError("give exactly one of `columns` and `history`")
        if self.history is not None and self.name is None:
            raise ValueError("a `history` needs a `name`")
        return self

    def patterns(self) -> list[str]:
        """Return the column names and globs as a list."""
        if self.columns is None:
            return []
        return [self.columns] if isinstance(self.columns, str) else list(self.columns)


class FeaturesConfig(Section):
    """The model's inputs by kind."""

    dense: list[FeatureGroup] = Field(default_factory=list)
    """Numbers, as one float each."""
    sparse: list[FeatureGroup] = Field(default_factory=list)
    """Ids, one or many per row, looked up in embedding tables."""
    sequence: list[FeatureGroup] = Field(default_factory=list)
    """Ordered lists of ids, such as a user's history."""


class DataConfig(Section):
    """Rows, label, split, and the layout of the prepared data set."""

    root: str = "."
    """Folder that relative source paths start from (local path, `file://`, `dbfs:/Volumes/...`, `s3a://...`)."""
    source: SourceConfig | None = None
    """Raw rows; may be left out when `prepare` is called with a DataFrame."""
    joins: list[JoinConfig] = Field(default_factory=list)
    """Side tables."""
    label: LabelConfig
    weight: str | None = None
    """Column of the sample weight, >= 0; default 1 for every row."""
    keep: list[str] = Field(default_factory=list)
    """Raw columns carried through to the prepared rows, for scoring and for metrics by segment."""
    split: SplitConfig = SplitConfig()
    num_lanes: int = Field(default=32, ge=1)
    """Lanes that rows are dealt into; every world size must divide it, and it must divide the batch size."""
    rows_per_row_group: int = Field(default=65_536, ge=1)
    """Rows per Parquet row group: the unit that a reader loads."""
    rows_per_file: int = Field(default=4_194_304, ge=1)
    """Rows per part file."""
    reader: Literal["arrow", "petastorm"] = "arrow"
    """`arrow` resumes exactly; `petastorm` (make_batch_reader) is for those who have it in place."""
    shuffle_window_row_groups: int = Field(default=4, ge=1)
    """Row groups per lane whose rows are shuffled together while training; fewer where rows are wide."""
    prefetch_batches: int = Field(default=8, ge=0)
    """Batches made ahead in a background thread; 0 makes them in the training thread."""

    @field_validator("keep")
    @classmethod
    def _kept_once(cls, keep: list[str]) -> list[str]:
        _no_name_twice(keep, "`keep`")
        return keep
