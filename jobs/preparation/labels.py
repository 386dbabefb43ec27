"""Label and sample weight of a raw row, and the down-sampling of negatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.conditions import event_counts
from jobs.preparation.splits import hash_share
from trainer.config import DataConfig, LabelConfig, RunConfig
from trainer.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def label_value(frame: DataFrame, label: LabelConfig) -> Column:
    """Return the label as 0 or 1 (float), of negatives 0; null where it is missing or cannot be one."""
    value = _raw_label(frame, label)
    if C.NEGATIVE not in frame.columns:
        return value
    return F.when(F.col(C.NEGATIVE), F.lit(0.0).cast("float")).otherwise(value)


def _raw_label(frame: DataFrame, label: LabelConfig) -> Column:
    if label.where is not None:
        return label_condition(frame, label.where).cast("float")
    if label.column is None:
        return F.lit(1.0).cast("float")
    where = f"data.label.column: {label.column}"
    if label.positive_values is not None:
        return (
            C.single_token(frame, label.column, where)
            .isin(list(map(str, label.positive_values)))
            .cast("float")
        )
    x = C.number(frame, label.column, where=where)
    if label.positive_at_least is None:
        return F.when(x.isin(0.0, 1.0), x).cast("float")
    return F.when(x.isNotNull(), (x >= F.lit(label.positive_at_least)).cast("float"))


def label_condition(frame: DataFrame, condition: str) -> Column:
    """Return whether the condition of `data.label.where` holds.

    Raises:
        ConfigError: it is no condition over the columns of the rows.
    """
    if C.LABEL_CONDITION in frame.columns:
        return F.col(C.LABEL_CONDITION)
    return event_counts(frame, condition, "data.label.where")


def known_label(frame: DataFrame, label: LabelConfig) -> Column | None:
    """Return `label_value`, or None where the rows lack the columns that tell it."""
    if label.column is not None:
        return label_value(frame, label) if label.column in frame.columns else None
    if label.where is None:
        return None
    try:
        return label_value(frame, label)
    except ConfigError:  # it held for the rows that were prepared, so columns are missing here
        return None


def weight_value(frame: DataFrame, data: DataConfig) -> Column | None:
    """Return the sample weight as double, null where a row has none; None where the config names none."""
    by = data.weights_by
    if by is None:
        return (
            None if data.weight is None else C.number(frame, data.weight, where=f"data.weight: {data.weight}")
        )
    value = C.single_token(frame, by.column, f"data.weights_by.column: {by.column}")
    weight = F.when(F.lit(False), F.lit(0.0))
    for key, number in by.values.items():
        weight = weight.when(value == F.lit(key), F.lit(number))
    return weight.otherwise(F.lit(by.other).cast("double"))


def check_label_rule(run: RunConfig) -> None:
    """Refuse rows that are all positives where nothing makes negatives.

    Raises:
        ConfigError: `implicit` without negatives.
    """
    if run.data.label.implicit and not _makes_negatives(run):
        raise ConfigError(
            "every row is a positive, so there is nothing to tell apart",
            where="data.label.implicit",
            got="no negatives in the config",
            fixes=["data.label: {column: ..., positive_values: [...]}"],
        )


def require_two_classes(rows: Mapping[str, int], positives: Mapping[str, int], run: RunConfig) -> None:
    """Refuse training rows of one class, from which no model learns.

    Args:
        rows: by split.
        positives: rows of label 1 by split.
        run: names the label.

    Raises:
        DataError: all training rows have the same label.
    """
    label, count = run.data.label, rows["train"]
    only = {0: 0, count: 1}.get(positives["train"])
    if only is None or _makes_negatives(run):
        return
    fixes = ["check the label's column"]
    if label.positive_at_least is not None:
        fixes = [f"another threshold: data.label.positive_at_least ({label.positive_at_least:g} now)"]
    elif label.where is not None:
        fixes = [f"another condition: data.label.where ({label.where} now)"]
    elif label.positive_values is not None:
        fixes = [f"check data.label.positive_values ({', '.join(map(str, label.positive_values))} now)"]
    if only == 1 and rows.get(C.DOWNSAMPLED):
        fixes = ["a larger data.downsample_negatives.keep: it left no negative"]
    raise DataError(
        f"the label is {only} in every training row",
        where="data.label.where" if label.column is None else f"data.label.column: {label.column}",
        got=f"{count:,} rows with label {only}",
        allowed="training rows with label 0 and with label 1",
        fixes=fixes,
    )


def _makes_negatives(run: RunConfig) -> bool:
    """Return whether another part of the config adds rows with label 0."""
    return getattr(run.data, "negatives", None) is not None


def downsampled(rows: DataFrame, run: RunConfig) -> DataFrame:
    """Move a share of the negatives of the training split out of it: their `SPLIT` becomes `DOWNSAMPLED`.

    They stay among the rows, because their events belong to the histories of other rows. A seeded hash of the
    row decides, independent of the hashes that deal and order the rows.

    Args:
        rows: with `SPLIT`, `HASH`, `ORDER`.
        run: names label and share.
    """
    rule = run.data.downsample_negatives
    if rule is None:
        return rows
    share = hash_share(F.xxhash64(F.lit("negatives"), F.col(C.HASH), F.col(C.ORDER)))
    negative = label_value(rows, run.data.label) == F.lit(0.0)
    leaves = (F.col(C.SPLIT) == "train") & F.coalesce(negative, F.lit(False)) & (share >= F.lit(rule.keep))
    return rows.withColumn(C.SPLIT, F.when(leaves, F.lit(C.DOWNSAMPLED)).otherwise(F.col(C.SPLIT)))


def negatives_kept(rows: Mapping[str, int], positives: Mapping[str, int]) -> float:
    """Return the share of the training split's negatives that `downsampled` left, from counts by `SPLIT`."""
    kept = rows["train"] - positives["train"]
    return kept / (kept + rows.get(C.DOWNSAMPLED, 0)) if kept else 1.0
