"""Config section `data`: where rows come from, their split, and the layout of the prepared data set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from trainer.config.base import Section
from trainer.config.labels import LabelConfig, Task, TaskLabelConfig
from trainer.config.negatives import NegativesConfig
from trainer.config.rows import CleanConfig, DownsampleConfig, SplitConfig, WeightsByConfig
from trainer.config.source import JoinConfig, SourceConfig, no_name_twice
from trainer.config.time_formats import TimeFormat
from trainer.config.user_rows import UserRowsConfig
from trainer.errors import ConfigError

TaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class CatalogueConfig(Section):
    """Which features belong to the item; `items/` of the data set has them once for each item."""

    item: str
    """Feature of one id: the item."""
    features: list[str] = Field(min_length=1)
    """Sparse and sequence features of the item besides it, of the training rows."""


class DataConfig(Section):
    """Rows, label, split, and the layout of the prepared data set."""

    root: str = "."
    """Folder that relative source paths start from (local path, `file://`, `dbfs:/Volumes/...`, `s3a://...`)."""
    source: SourceConfig | None = None
    """Raw rows; may be left out when `prepare` is called with a DataFrame."""
    joins: list[JoinConfig] = Field(default_factory=list)
    """Side tables."""
    time_formats: dict[str, str] = Field(default_factory=dict)
    """Form of the times in raw columns of digits, or of text that is no ISO 8601, in the directives of
    `strftime` that are numbers: `{hour: "%y%m%d%H"}` of Avazu's `14102100`, `{at: "%d/%m/%Y %H:%M"}`. The
    columns hold text in ISO 8601 from then on, wherever they are named; other numbers are seconds."""
    clean: CleanConfig = CleanConfig()
    label: LabelConfig | None = Field(default=None, examples=[{"column": "clicked"}])
    """What the model learns to predict; needed unless there are `labels`."""
    labels: dict[TaskName, TaskLabelConfig] = Field(
        default_factory=dict, examples=[{"click": {"column": "clicked"}, "like": {"column": "liked"}}]
    )
    """In place of `label`, those of several tasks by name. The first is the main one: `downsample_negatives`,
    rates of earlier rows and target encodings, and the label rate of reports go by it."""
    weight: str | None = None
    """Column of the sample weight, >= 0; default 1 for every row."""
    weights_by: WeightsByConfig | None = None
    """Sample weights by the values of a column, in place of `weight`."""
    downsample_negatives: DownsampleConfig | None = None
    keep: list[str] = Field(default_factory=list)
    """Raw columns carried through to the prepared rows, for scoring and for metrics by segment."""
    split: SplitConfig = Field(
        default=SplitConfig(), examples=[{"method": "random", "fractions": [0.8, 0.1, 0.1]}]
    )
    negatives: NegativesConfig | None = None
    """Rows of items that a user did not meet, added to implicit feedback."""
    catalogue: CatalogueConfig | None = Field(
        default=None, examples=[{"item": "movie_id", "features": ["genres"]}]
    )
    """Features of items that are written for each item too, for models that score any item by them."""
    user_rows: UserRowsConfig | None = Field(
        default=None,
        examples=[{"by": "user_id", "order_by": "time", "lists": {"seen": "item_id"}, "targets": "item_id"}],
    )
    """One row per user with lists of items, in place of the user's events."""
    num_lanes: int = Field(default=32, ge=1)
    """Lanes that rows are dealt into; every world size must divide it, and it must divide the batch size."""
    rows_per_row_group: int = Field(default=65_536, ge=1)
    """Rows per Parquet row group: the unit that a reader loads. Fewer, but 1,024 or more, where row groups of
    all lanes together would take over 1 GiB of memory."""
    rows_per_file: int = Field(default=4_194_304, ge=1)
    """Rows per part file."""
    reader: Literal["arrow", "petastorm"] = "arrow"
    """`arrow` resumes exactly; `petastorm` (make_batch_reader) is for those who have it in place."""
    shuffle_window_row_groups: int = Field(default=4, ge=1)
    """Row groups per lane whose rows are shuffled together while training; fewer where rows are wide."""
    prefetch_batches: int = Field(default=8, ge=0)
    """Batches made ahead in a background thread; 0 makes them in the training thread."""
    on_corrupt: Literal["fail", "skip"] = "fail"
    """At a damaged or missing part file; `skip` puts zero-weight rows in place of unreadable row groups."""
    remote_prefetch_row_groups: int = Field(default=8, ge=0)
    """Row groups that a rank fetches ahead, at once, from an object store, within 256 MiB; 0 for none."""
    remote_attempts: int = Field(default=5, ge=1)
    """Tries of a read from an object store; waits between them grow from 0.25 to 8 s."""

    @field_validator("time_formats")
    @classmethod
    def _known_forms(cls, formats: dict[str, str]) -> dict[str, str]:
        for text in formats.values():
            TimeFormat(text)
        return formats

    @model_validator(mode="after")
    def _dates_cut(self) -> DataConfig:
        form, until = self.time_formats.get(self.split.column or ""), self.split.until or []
        numbers = [value for value in until if str(value).replace(".", "", 1).isdigit()]
        if form is not None and numbers:
            raise ValueError(
                f"`until` of a column with a format is a date such as `2024-01-31`, not {numbers[0]}"
            )
        return self

    @model_validator(mode="after")
    def _label_or_labels(self) -> DataConfig:
        if self.label is None and not self.labels:
            raise ConfigError(
                "a required key is missing",
                where="data.label",
                fixes=[
                    "label: {column: clicked}",
                    "labels: {click: {column: clicked}, like: {column: liked}}",
                ],
            )
        if self.label is not None and self.labels:
            raise ValueError("give `label`, or `labels` for several tasks, not both")
        lowered = [name.lower() for name in self.labels]
        twice = [name for name in self.labels if lowered.count(name.lower()) > 1]
        if twice:
            raise ValueError(f"the names of `labels` differ by more than case: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _negatives_of_one_binary_label(self) -> DataConfig:
        task = self.first_task
        if self.negatives is not None and (self.labels or task.label.kind == "rating"):
            raise ConfigError(
                "negatives are rows with label 0 of one binary label",
                where="data.negatives",
                got=f"{len(self.labels)} labels" if self.labels else f"{task.key}.kind: rating",
                fixes=["leave out data.negatives", "data.label: {column: ...} alone"],
            )
        if self.downsample_negatives is not None and task.label.kind == "rating":
            raise ConfigError(
                "a rating has no negatives to drop",
                where="data.downsample_negatives",
                got=f"{task.key}.kind: rating",
                fixes=["leave out data.downsample_negatives", "name a binary label first"],
            )
        return self

    @model_validator(mode="after")
    def _negatives_once(self) -> DataConfig:
        drawn = self.negatives is not None and self.negatives.train is not None
        if drawn and self.downsample_negatives is not None:
            raise ValueError("draw fewer negatives with `negatives.train` instead of `downsample_negatives`")
        return self

    @model_validator(mode="after")
    def _users_fit(self) -> DataConfig:
        if self.user_rows is None:
            return self
        self.user_rows.check_split(self.split)
        if self.first_task.label.kind == "rating":
            raise ValueError(
                f"`user_rows` list the events of label 1, and a rating has none: "
                f"`{self.first_task.key}.positive_at_least` says from which rating on it is one"
            )
        negatives = self.negatives
        if negatives is not None and negatives.evaluation is not None and self.user_rows.evaluates:
            raise ValueError("`user_rows` are ranked against items as they are: no `negatives.evaluation`")
        if "train" in self.user_rows.splits:
            drawn = negatives is not None and (negatives.train is not None or negatives.in_batch.log_q)
            events = {
                "labels": bool(self.labels),
                "weight": self.weight is not None,
                "weights_by": self.weights_by is not None,
                "downsample_negatives": self.downsample_negatives is not None,
                "negatives": drawn,
            }
            for name in (name for name, given in events.items() if given):
                raise ValueError(f"`{name}` is for events, and the training rows are those of `user_rows`")
        return self

    @model_validator(mode="after")
    def _reader_can_skip(self) -> DataConfig:
        if self.reader == "petastorm" and self.on_corrupt == "skip":
            raise ValueError(
                "`on_corrupt: skip` needs `reader: arrow`: petastorm stops at a damaged row group"
            )
        return self

    @field_validator("keep")
    @classmethod
    def _kept_once(cls, keep: list[str]) -> list[str]:
        no_name_twice(keep, "`keep`")
        return keep

    @model_validator(mode="after")
    def _one_weight(self) -> DataConfig:
        if self.weight is not None and self.weights_by is not None:
            raise ValueError("give `weight` or `weights_by`, not both")
        return self

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Return the labels with their names, in order."""
        if self.label is not None:
            return (Task(0, "label", "data.label", self.label),)
        return tuple(
            Task(number, name, f"data.labels.{name}", label)
            for number, (name, label) in enumerate(self.labels.items())
        )

    @property
    def first_task(self) -> Task:
        """Return the main task."""
        return self.tasks[0]

    @property
    def weight_column(self) -> str | None:
        """Return the raw column that the sample weights come from."""
        return self.weights_by.column if self.weights_by is not None else self.weight
