"""What `synth` is asked for: how many rows, which columns, how they are distributed, how they are written."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from trainer.config.base import LARGEST_SEED, Section
from trainer.config.messages import config_error

_ROWS_PER_SMALL_FILE = 2**18
_ROWS_PER_LARGE_FILE = 2**22
_MANY_FILES = 64
_SMALLEST_CARDINALITY = 10
_USUAL_DAYS = 7


class Shape(Section):
    """Rows, columns, distributions and files of synthetic data; the options of `shardrec synth`."""

    rows: int = Field(ge=1, le=10**12)
    """Rows to make."""
    seed: int = Field(default=1, ge=0, le=LARGEST_SEED)
    """The same options with the same seed give the same rows."""
    dense: int = Field(default=13, ge=0, le=1000)
    """Columns I1, I2, ... of skewed whole numbers >= 0."""
    sparse: int = Field(default=26, ge=1, le=1000)
    """Columns C1, C2, ... of one id each."""
    cardinality: int = Field(default=1_000_000, ge=2, le=2**31)
    """Ids of the largest sparse column; the others have fewer, evenly on a log scale, C1 the fewest."""
    alpha: float = Field(default=1.05, gt=0, le=4)
    """Power law of ids: the density of the k-th most frequent id falls as k^-alpha."""
    multi_hot: int = Field(default=0, ge=0, le=1000)
    """Columns M1, M2, ... of a list of ids each."""
    mean_length: float = Field(default=20.0, ge=1, le=10_000)
    """Mean length of these lists, geometrically distributed from 1."""
    history: int = Field(default=0, ge=0, le=10_000)
    """Mean events per user; above 0 every row is an event, with user_id, item_id and event_time."""
    days: int | None = Field(default=None, ge=0, le=36_500)
    """Days that rows are spread over by event_time, in order; without it 7 with histories, else no column."""
    positive_rate: float = Field(default=0.25, gt=0, lt=1)
    """Share of rows with label 1."""
    missing_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of missing values in every I, C and M column."""
    signal: float = Field(default=1.3, gt=0, le=10)
    """Standard deviation of the true logit: more makes the best reachable AUC higher."""
    format: Literal["parquet", "tsv"] = "parquet"
    """Files to write; TSV has no header, as Criteo's."""
    ids: Literal["int64", "hex"] | None = None
    """Ids as whole numbers, or as eight hex digits like Criteo's; without it int64 in Parquet, hex in TSV."""
    files: int | None = Field(default=None, ge=1, le=1_000_000)
    """Files to write, each by one Spark task; without it one for 262,144 rows, fewer beyond 64 files."""

    @classmethod
    def of(cls, **options: Any) -> Shape:
        """Check options by name.

        Raises:
            ConfigError: an option does not exist, or its value is wrong.
        """
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            raise config_error(error, cls, where=_flag) from error

    @model_validator(mode="after")
    def _consistent(self) -> Shape:
        if self.files is not None and self.files > self.rows:
            raise ValueError(f"--files: {self.files} files need as many rows, and there are {self.rows}")
        if self.history and self.days == 0:
            raise ValueError("--history needs a time column: leave out --days, or give at least 1")
        return self

    @property
    def num_days(self) -> int:
        """Return the days that rows are spread over; 0 for no time column."""
        return self.days if self.days is not None else _USUAL_DAYS if self.history else 0

    @property
    def num_users(self) -> int:
        """Return the number of users; 0 without histories."""
        return max(1, self.rows // self.history) if self.history else 0

    @property
    def num_items(self) -> int:
        """Return the number of items; 0 without histories."""
        return min(self.cardinality, max(64, self.num_users)) if self.history else 0

    @property
    def num_files(self) -> int:
        """Return the number of files."""
        if self.files is not None:
            return self.files
        small = -(-self.rows // _ROWS_PER_SMALL_FILE)
        return max(min(small, _MANY_FILES), -(-self.rows // _ROWS_PER_LARGE_FILE))

    @property
    def hex_ids(self) -> bool:
        """Return whether ids are text."""
        return (self.ids or ("hex" if self.format == "tsv" else "int64")) == "hex"

    @property
    def dense_columns(self) -> list[str]:
        """Return the names of the dense columns."""
        return [f"I{number}" for number in range(1, self.dense + 1)]

    @property
    def sparse_columns(self) -> dict[str, int]:
        """Return the cardinality of every sparse column."""
        return _log_spread("C", self.sparse, self.cardinality)

    @property
    def list_columns(self) -> dict[str, int]:
        """Return the cardinality of every list column."""
        return _log_spread("M", self.multi_hot, self.cardinality)

    @property
    def columns(self) -> list[str]:
        """Return all columns in file order."""
        events = ["user_id", "item_id"] if self.history else []
        times = ["event_time"] if self.num_days else []
        return ["label", *self.dense_columns, *self.sparse_columns, *self.list_columns, *events, *times]

    def rows_of_file(self, number: int) -> tuple[int, int]:
        """Return the first row of a file, and the first behind it."""
        return number * self.rows // self.num_files, (number + 1) * self.rows // self.num_files


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}" if key else "shardrec synth"


def _log_spread(prefix: str, columns: int, largest: int) -> dict[str, int]:
    smallest = min(_SMALLEST_CARDINALITY, largest)
    sizes = np.geomspace(largest, smallest, columns)[::-1] if columns > 1 else [largest] * columns
    return {f"{prefix}{number}": round(float(size)) for number, size in enumerate(sizes, start=1)}
