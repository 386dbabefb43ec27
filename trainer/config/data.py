"""Config section `data`: where rows come from, their split, and the layout of the prepared data set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from trainer.config.base import Section
from trainer.config.negatives import NegativesConfig
from trainer.config.rows import CleanConfig, DownsampleConfig, LabelConfig, SplitConfig, WeightsByConfig
from trainer.config.source import JoinConfig, SourceConfig, no_name_twice
from trainer.config.time_formats import TimeFormat


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
    label: LabelConfig
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
    def _negatives_once(self) -> DataConfig:
        drawn = self.negatives is not None and self.negatives.train is not None
        if drawn and self.downsample_negatives is not None:
            raise ValueError("draw fewer negatives with `negatives.train` instead of `downsample_negatives`")
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
    def weight_column(self) -> str | None:
        """Return the raw column that the sample weights come from."""
        return self.weights_by.column if self.weights_by is not None else self.weight
