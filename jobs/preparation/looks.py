"""What a task sees in the raw values of each feature, and what is wrong with them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.preparation.dense_checks import dense_findings, id_findings
from jobs.preparation.planned import PlannedFeature
from jobs.preparation.rows import RawColumns
from jobs.preparation.survey_facts import Facts, any_in_row
from jobs.preparation.value_counts import ValueCounts
from trainer.features import chains
from trainer.features.raw_values import is_whole
from trainer.features.values import Tokens
from trainer.schema import numbers_per_row


def look_at_numbers(
    feature: PlannedFeature, columns: RawColumns, train: NDArray[np.bool_], facts: Facts
) -> None:
    """Look at the values of a dense feature; see `look_at_tokens`."""
    read = chains.read(feature, columns)
    assert isinstance(read.value, np.ndarray)
    missing = any_in_row(np.isnan(read.value))
    facts.missing[feature.name] += int((missing & train).sum())
    if read.wrong is not None:
        facts.found(f"{feature.name}\nwrong", read.wrong, columns[feature.column])
    if read.lengths is not None:
        facts.found(f"{feature.name}\nlength", read.lengths != numbers_per_row(feature.ops), read.lengths)
    if chains.reads_time(feature):
        facts.see_times(feature.name, read.value)
    for key, bad, shown in dense_findings(feature, read):
        facts.found(f"{feature.name}\n{key}", bad, shown)


def look_at_tokens(
    feature: PlannedFeature,
    columns: RawColumns,
    train: NDArray[np.bool_],
    facts: Facts,
    values: ValueCounts,
    table: int | None,
) -> None:
    """Look at the values of a sparse or sequence feature, and count those of the training rows.

    Args:
        feature: which.
        columns: raw columns of N rows.
        train: bool [N], the rows whose values are counted.
        facts: takes what is seen.
        values: takes the counts.
        table: to count for; None where nothing is counted.
    """
    if table is not None and _counts_as_they_are(feature, columns):
        _count_whole_numbers(feature, columns[feature.column], train, facts, values, table)
        return
    read = chains.read(feature, columns)
    if read.wrong is not None:
        facts.found(f"{feature.name}\nwrong", read.wrong, columns[feature.column])
    if isinstance(read.value, np.ndarray) and chains.reads_time(feature):
        facts.see_times(feature.name, read.value)
    for key, bad, shown in id_findings(feature, read):
        facts.found(f"{feature.name}\n{key}", bad, shown)
    tokens = chains.tokens(feature, columns, read)
    facts.tokens[feature.name] += len(tokens.codes)
    if not tokens.is_list:
        facts.missing[feature.name] += int((tokens.missing & train).sum())
    if feature.id_op is None:
        _look_at_ids(feature, tokens, facts)
    if table is not None:
        values.add(table, tokens.take(train))


def _counts_as_they_are(feature: PlannedFeature, columns: RawColumns) -> bool:
    """Return whether a feature is a column of whole numbers of which a vocabulary is all that is made."""
    ops = [op.name for op in feature.ops]
    return ops == ["vocabulary"] and not feature.is_list and is_whole(columns[feature.column].type)


def _count_whole_numbers(
    feature: PlannedFeature,
    column: pa.Array,
    train: NDArray[np.bool_],
    facts: Facts,
    values: ValueCounts,
    table: int,
) -> None:
    """Count without the places of the rows' values among the distinct ones: half the work."""
    chosen = _chosen(column, train)
    facts.tokens[feature.name] += len(column)
    facts.missing[feature.name] += chosen.null_count
    counted = pc.value_counts(chosen.drop_null())
    values.add_counts(table, counted.field(0).cast(pa.int64()), counted.field(1))


def _chosen(column: pa.Array, train: NDArray[np.bool_]) -> pa.Array:
    """Return the training rows of a column, not copied where they come first, as dealt ones do."""
    num_rows = int(np.count_nonzero(train))
    return column.slice(0, num_rows) if train[:num_rows].all() else column.filter(pa.array(train))


def _look_at_ids(feature: PlannedFeature, tokens: Tokens, facts: Facts) -> None:
    numbers, good = chains.raw_ids(tokens)
    counts = tokens.counts()
    used = counts > 0
    if (used & good).any():
        largest = int(numbers[used & good].max())
        facts.largest[feature.name] = max(largest, facts.largest.get(feature.name, 0))
    bad = used & ~good
    if bad.any():
        wrong = np.append(bad, False)[tokens.codes]
        rows = (
            wrong
            if tokens.offsets is None
            else np.add.reduceat(np.append(wrong, False), tokens.offsets[:-1])[np.diff(tokens.offsets) > 0]
            > 0
        )
        quote = min(tokens.texts().filter(pa.array(bad)).to_pylist())
        facts.add_bad(f"{feature.name}\nid", int(rows.sum()), quote)
