"""The feature spec applied to raw rows: the one way that model inputs are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.failures import RAISED
from jobs.preparation.feature_ops import FeatureOp, feature_ops
from jobs.preparation.histories import event_counts, event_time, user_column, with_history
from jobs.preparation.planned import HISTORY
from jobs.preparation.sources import require_columns
from jobs.preparation.vocabulary import Vocabularies
from trainer.errors import DataError
from trainer.schema import KEEP_PREFIX, PADDING_ID, Feature, FeatureSpec, FittedOp

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import Column, DataFrame, SparkSession

# Text that is an id already; 18 digits always fit a signed 64-bit integer.
RAW_ID = "^[0-9]{1,18}$"


def apply_spec(
    frame: DataFrame,
    spec: FeatureSpec,
    dataset: str | Path,
    spark: SparkSession,
    *,
    features: Sequence[str] | None = None,
    keep: Sequence[str] = (),
) -> DataFrame:
    """Turn raw rows into model inputs with the numbers and vocabularies that `prepare` fitted.

    Args:
        frame: raw rows. A history feature is taken from an array column of the feature's own name (raw item
            ids, oldest first; see `history_as_of_now`), else built from the earlier rows of this very frame.
        spec: of the prepared data set.
        dataset: folder of the prepared data set, which holds the vocabularies.
        spark: the session.
        features: make only these inputs, for instance those of the user; default all.
        keep: raw columns to carry along as `keep.<name>`.

    Returns:
        One row per row of `frame`, in no certain order: the features, then the kept columns.

    Raises:
        DataError: a raw column is missing or of a type that cannot be used.
    """
    wanted = [f for f in spec.features if features is None or f.name in features]
    require_columns(list(keep), frame.columns, "keep")
    vocabularies = Vocabularies.load(spec, dataset, spark)
    made = with_inputs(frame, wanted, vocabularies)
    kept = [C.column(name).alias(KEEP_PREFIX + name) for name in keep]
    return made.select(*input_columns(wanted), *kept)


def input_columns(features: Sequence[Feature]) -> list[Column]:
    """Return the columns that `with_inputs` added, under the features' names and in their final types."""
    return [F.col(_made(n)).cast(_type(feature)).alias(feature.name) for n, feature in enumerate(features)]


def _type(feature: Feature) -> str:
    if feature.kind == "dense":
        return "float"
    return "array<bigint>" if feature.is_list else "bigint"


def with_inputs(frame: DataFrame, features: Sequence[Feature], vocabularies: Vocabularies) -> DataFrame:
    """Add one column per feature to the raw rows (see `input_columns`)."""
    dense: dict[str, tuple[Column, Sequence[FittedOp]]] = {}
    ids: dict[str, Column] = {}
    lookups: list[tuple[str, str, str]] = []
    for number, feature in enumerate(features):
        _require(feature, frame)
        made = _made(number)
        if feature.kind == "dense":
            dense[made] = (C.number(frame, feature.column), feature.ops)
        elif not builds_history(feature, frame):
            ids[made] = _tokens_or_ids(frame, feature)
            if feature.vocabulary is not None and not feature.is_list:
                lookups.append((made, feature.vocabulary, made))
    frame = with_dense(frame, dense)
    frame = frame.withColumns(ids) if ids else frame
    frame = vocabularies.lookup(frame, lookups)
    for number, feature in enumerate(features):
        if feature.kind != "dense" and feature.is_list:
            made = _made(number)
            if builds_history(feature, frame):
                frame = _with_built_history(frame, feature, vocabularies, made)
            elif feature.vocabulary is not None:
                frame = vocabularies.lookup_lists(frame, made, feature.vocabulary)
    return frame


def with_dense(frame: DataFrame, chains: Mapping[str, tuple[Column, Sequence[FittedOp]]]) -> DataFrame:
    """Add one column per chain of fitted dense ops.

    Args:
        frame: the rows.
        chains: by new column, where it starts and its ops from left to right.
    """
    if not chains:
        return frame
    frame = frame.withColumns({name: x for name, (x, _) in chains.items()})
    # One projection per step: nested into one, ops that use their input twice would double it each time.
    for step in range(max(len(ops) for _, ops in chains.values())):
        due = {name: ops[step] for name, (_, ops) in chains.items() if step < len(ops)}
        frame = frame.withColumns({name: _dense_op(op, name) for name, op in due.items()})
    return frame


def _dense_op(op: FittedOp, name: str) -> Column:
    return feature_ops("dense")[op.name].function(F.col(name), **op.params)


def tokens(frame: DataFrame, name: str, ops: Sequence[FittedOp]) -> tuple[Column, bool]:
    """Apply the sparse ops before the id op.

    Returns:
        The tokens (a list without missing values for list features), and whether they are a list.
    """
    x, is_list = C.token(frame, name), C.is_list(frame, name)
    for op in ops:
        entry = feature_ops("sparse").get(op.name)
        if entry is None or entry.gives == "ids":  # `history` and the id ops are not for tokens
            continue
        if is_list:
            x = _each(x, entry, op)
        else:
            x = entry.function(x, **op.params)
            is_list = entry.gives == "list"
    if is_list:
        present = F.filter(x, lambda t: t.isNotNull() & (t != ""))
        return F.coalesce(present, F.array().cast("array<string>")), True
    return x, False


def _each(tokens: Column, entry: FeatureOp, op: FittedOp) -> Column:
    return F.transform(tokens, lambda token: entry.function(token, **op.params))


def builds_history(feature: Feature, frame: DataFrame) -> bool:
    """Return whether the feature's list comes from earlier rows, not from a column of its name."""
    return _history(feature) is not None and feature.name not in frame.columns


def _history(feature: Feature) -> FittedOp | None:
    return feature.ops[0] if feature.ops and feature.ops[0].name == HISTORY else None


def _made(number: int) -> str:
    return f"__made_{number}"


def _require(feature: Feature, frame: DataFrame) -> None:
    history = _history(feature)
    needed = [feature.column]
    if history is not None:
        ready = feature.name in frame.columns and C.is_list(frame, feature.name)
        needed = [feature.name] if ready else [history.params[key] for key in ("user", "item", "time")]
    require_columns(needed, frame.columns, f"feature {feature.name!r}")


def _tokens_or_ids(frame: DataFrame, feature: Feature) -> Column:
    """Return ids where an expression can make them, else the tokens that a vocabulary will number."""
    name = feature.name if _history(feature) is not None else feature.column
    x, listed = tokens(frame, name, feature.ops)
    if listed != feature.is_list:
        raise DataError(
            f"feature {feature.name!r} was fitted on {'lists' if feature.is_list else 'single values'}",
            where=f"column {name!r}",
            got=frame.schema[name].dataType.simpleString(),
        )
    if listed and _history(feature) is not None:
        length = int(feature.ops[0].params["max_length"])
        x = F.slice(x, F.greatest(F.size(x) - length + 1, F.lit(1)), F.lit(length))
    if feature.vocabulary is not None:
        return x
    return F.transform(x, lambda t: _id(t, feature)) if listed else _id(x, feature)


def _id(x: Column, feature: Feature) -> Column:
    """Return the id of one token for features without a vocabulary."""
    if feature.ops and feature.ops[-1].name == "hash":
        return feature_ops("sparse")["hash"].function(x, **feature.ops[-1].params)
    limit = feature.num_embeddings or 0
    value = F.when(x.rlike(RAW_ID), x.cast("bigint"))
    message = F.concat(
        F.lit(f"{RAISED}feature '{feature.name}' needs ids from 0 to {limit - 1}, a row holds "), x
    )
    return (
        F.when(x.isNull(), F.lit(PADDING_ID).cast("bigint"))
        .when(value < limit, value)
        .otherwise(F.raise_error(message).cast("bigint"))
    )


def _with_built_history(
    frame: DataFrame, feature: Feature, vocabularies: Vocabularies, made: str
) -> DataFrame:
    params = feature.ops[0].params
    item, _ = tokens(frame, params["item"], feature.ops)
    ready = counts_column(feature.name)
    counts = (
        F.col(C.quoted(ready))
        if ready in frame.columns
        else event_counts(frame, params["where"], feature.name)
    )
    user = user_column(frame, params["user"])
    time = event_time(frame, params["time"], f"feature '{feature.name}'")
    events = frame.select(
        user.alias("user"),
        time.alias("time"),
        counts.alias("counts"),
        item.alias("token"),
    )
    if feature.vocabulary is not None:
        events = vocabularies.lookup(events, [("token", feature.vocabulary, "id")])
    else:
        events = events.withColumn("id", _id(F.col("token"), feature))
    return with_history(frame, events, user, time, int(params["max_length"]), made)


def counts_column(feature: str) -> str:
    """Return the name of the column that says whether a row counts as an event of a history."""
    return f"__counts_{feature}"
