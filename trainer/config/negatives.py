"""Config section `data.negatives`: rows of items that a user did not meet."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainer.config.base import LARGEST_SEED, Section

Exclude = Literal["known", "train", "none"]
"""Items that are no negatives of a user."""
LOG_Q_FOLDER = "item_log_q"
"""Of the data set, where `in_batch.log_q` asks for it."""


class NegativesFile(Section):
    """Negatives that are known already, taken as they are."""

    path: str
    """File, folder or glob; relative to `data.root`."""
    format: Literal["ncf", "parquet", "csv", "tsv"] | None = None
    """By default read from the file name. `ncf`: lines `(user,item)<tab>item<tab>item...`, the list of one
    positive. The others hold the user and item column, CSV and TSV under a header: a list of each user."""


class SamplingConfig(Section):
    """Where the negatives of each positive come from: drawn from all items, or from a file."""

    per_positive: int | None = Field(default=None, ge=1)
    """Negatives of each positive, no item twice; fewer where a user has fewer candidates. With a `file` of
    lists per user, so many of the user's list; default all."""
    distribution: Literal["uniform", "popularity", "mixed"] = "uniform"
    """`popularity`: by an item's positives in train to the power `alpha`; `mixed`: some draws `uniform`."""
    alpha: float = Field(default=0.75, gt=0)
    """Power of the popularity."""
    uniform_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the draws of `mixed` that are uniform."""
    exclude: Exclude = "known"
    """`known`: never an item that the user met in any row of any split; `train`: none of the user's positives
    in train; `none`: any item."""
    file: NegativesFile | None = None
    """Take these instead of drawing."""

    @model_validator(mode="after")
    def _one_origin(self) -> SamplingConfig:
        if self.file is None and self.per_positive is None:
            raise ValueError("give `per_positive` or `file`")
        ncf = self.file is not None and self.file.format == "ncf"
        if ncf and self.per_positive is not None:
            raise ValueError("the file holds each positive's own list: leave out `per_positive`")
        fields, drawn = type(self).model_fields, ("distribution", "alpha", "uniform_share", "exclude")
        changed = [name for name in drawn if getattr(self, name) != fields[name].default]
        if self.file is not None and changed:
            raise ValueError(f"nothing is drawn with a `file`: leave out `{changed[0]}`")
        return self


class TrainSamplingConfig(SamplingConfig):
    """Where the negatives of each training positive come from: drawn from all items, or from a file."""

    exclude: Exclude = "train"
    """`train`: none of the user's positives in train; `known`: never an item that the user met in any row of
    any split, which tells a model what is held out; `none`: any item."""


class InBatchConfig(Section):
    """What a model needs that takes the other items of a batch as negatives."""

    log_q: bool = False
    """Write `item_log_q/`: how likely each item is to be in a batch, for the logQ correction."""


class NegativesConfig(Section):
    """Negatives of implicit feedback: rows with label 0 beside each row with label 1."""

    user: str
    """Column of the user id."""
    item: str
    """Column of the item id."""
    item_columns: list[str] = Field(default_factory=list)
    """Columns of the rows (not of a side table) that belong to the item; others stay as in the positive."""
    train: TrainSamplingConfig | None = None
    """Negatives of the training rows."""
    evaluation: SamplingConfig | None = None
    """Negatives of the valid and test rows: the same lists for every model."""
    in_batch: InBatchConfig = InBatchConfig()
    """Nothing is added to the rows for these."""
    seed: int = Field(default=1, ge=0, le=LARGEST_SEED)
    """Fixes which negatives are drawn."""
