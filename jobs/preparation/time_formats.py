"""Raw times of a form of their own (`data.time_formats`): rewritten in ISO 8601, as single rows are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from trainer.config.time_formats import TimeFormat, century_of
from trainer.features.time_formats import NUMBER

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def with_iso_times(frame: DataFrame, formats: Mapping[str, str]) -> DataFrame:
    """Rewrite the columns that have a format, as `trainer.features.time_formats` does; others stay."""
    made = {
        name: _iso_times(frame, name, TimeFormat(text))
        for name, text in formats.items()
        if name in frame.columns and _rewritable(frame.schema[name].dataType)
    }
    return frame.withColumns(made) if made else frame


def _rewritable(kind: T.DataType) -> bool:
    return C.is_text(kind) or isinstance(kind, T.NumericType)


def _iso_times(frame: DataFrame, name: str, form: TimeFormat) -> Column:
    text = F.trim(C.token(frame, name))
    plain, whole = text, rf"^{form.pattern}\z"
    if not C.is_text(frame.schema[name].dataType):
        padded = F.lpad(text, form.width, "0")
        plain = F.when(text.rlike(r"^[0-9]+\z") & (F.length(text) < form.width), padded).otherwise(text)
    iso = F.regexp_replace(plain, whole, form.rewriting("$", "20"))
    if form.short_year is not None:
        early = F.regexp_replace(plain, whole, form.rewriting("$", "19"))
        year = F.regexp_extract(plain, whole, form.short_year)
        iso = F.when(year.isin(*[f"{n:02}" for n in range(100) if century_of(n) == "19"]), early).otherwise(
            iso
        )
    wrong = F.concat(text, F.lit(f" (not of the form {form.text})"))
    return (
        F.when(plain.rlike(whole), iso)
        .when(text.rlike(rf"^{NUMBER}\z"), wrong)
        .otherwise(C.token(frame, name))
    )
