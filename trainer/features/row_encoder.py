"""Applies a fitted feature spec to raw columns: in Spark's tasks, and to single rows without Spark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.features import chains
from trainer.features.ids import looked_up, numbered, oov_buckets
from trainer.features.number_lists import as_lists
from trainer.features.ops import entries
from trainer.features.raw_values import is_whole, one_array
from trainer.features.time_formats import with_iso_times
from trainer.features.values import Codes, Tokens
from trainer.features.vocabularies import Vocabulary, read_vocabularies
from trainer.schema import Feature, FeatureSpec


@dataclass(frozen=True)
class RowEncoder:
    """The features of a spec with their vocabularies.

    Attributes:
        features: to make, in order.
        vocabularies: by folder.
        time_formats: of raw columns whose times are not in ISO 8601 yet.

    Example:
        >>> manifest = Manifest.load("prepared/movielens")  # doctest: +SKIP
        >>> encoder = RowEncoder.load(manifest.spec, "prepared/movielens")  # doctest: +SKIP
        >>> encoder.encode_rows([{"user_id": 7, "movie_id": 42}])  # doctest: +SKIP
    """

    features: tuple[Feature, ...]
    vocabularies: Mapping[str, Vocabulary]
    time_formats: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(
        cls, spec: FeatureSpec, dataset: str | Path, features: Iterable[str] | None = None
    ) -> RowEncoder:
        """Read the vocabularies of a prepared data set.

        Args:
            spec: of the data set.
            dataset: its folder.
            features: make only these; default all inputs.
        """
        names = {f.name for f in spec.features if f.role == "input"} if features is None else set(features)
        made = cls.of([f for f in spec.features if f.name in names], dataset)
        return replace(made, time_formats=spec.time_formats)

    @classmethod
    def of(cls, features: Sequence[Feature], dataset: str | Path) -> RowEncoder:
        """Read the vocabularies of some features of a prepared data set."""
        wanted = {(f.vocabulary, f.vocabulary_hash) for f in features if f.vocabulary is not None}
        return cls(tuple(features), read_vocabularies(Path(dataset), frozenset(wanted)))

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the raw columns that `encode` needs; one made of several rows is `__derived_<feature>`."""
        return tuple(dict.fromkeys(name for f in self.features for name in chains.raw_columns(f)))

    def encode(self, columns: chains.RawColumns) -> dict[str, pa.Array]:
        """Make the prepared columns of some raw ones.

        Args:
            columns: Arrow arrays of N rows, by name.

        Returns:
            By feature: float32 [N] for dense ones (list<float32> [N] where rows hold several numbers),
            int64 [N] or list<int64> [N] for the others.

        Raises:
            DataError: a column's type does not fit, a list of numbers has another length, or an id is
                outside its table.
        """
        if self.time_formats:
            columns = with_iso_times(columns, self.time_formats)
        return {feature.name: self._encoded(feature, columns) for feature in self.features}

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, pa.Array]:
        """Make the prepared columns of rows as dictionaries; a key that is absent is a missing value.

        Raises:
            DataError: see `encode`.
        """
        return self.encode({name: _column(name, [row.get(name) for row in rows]) for name in self.columns})

    def _encoded(self, feature: Feature, columns: chains.RawColumns) -> pa.Array:
        if feature.kind == "dense":
            steps = list(entries(feature.ops, feature.kind))
            found = chains.read(feature, columns)
            assert isinstance(found.value, np.ndarray)
            if found.lengths is not None:
                raise _other_length(feature, found.lengths)
            made = chains.numbers(found.value, steps)
            if feature.dim is not None:
                return as_lists(made)
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused later
                return pa.array(made.astype(np.float32))
        joined = columns.get(joined_ids(feature.name))
        if joined is not None:  # a vocabulary too large for one process was joined to the rows
            return joined
        vocabulary = self.vocabularies.get(feature.vocabulary) if feature.vocabulary else None
        whole = _whole_numbers_to_look_up(feature, columns, vocabulary)
        if whole is not None and vocabulary is not None:
            return pa.array(looked_up(feature.ops[0], whole, vocabulary), pa.int64())
        tokens = chains.tokens(feature, columns)
        return id_array(tokens, numbered(feature, tokens, vocabulary))


def _whole_numbers_to_look_up(
    feature: Feature, columns: chains.RawColumns, vocabulary: Vocabulary | None
) -> pa.Array | None:
    """Return the raw column if it is of whole numbers that a vocabulary of such is all that is done to.

    To look each of them up takes less time than to find the distinct ones first.
    """
    op = feature.ops[0] if feature.ops else None
    if op is None or op.name != "vocabulary" or oov_buckets(op) > 1 or feature.is_list:
        return None
    if vocabulary is None or vocabulary.texts is not None:
        return None
    column = one_array(columns[feature.column])
    return column if is_whole(column.type) else None


def _column(name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, from_pandas=True)  # NaN is missing
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        kinds = sorted({type(value).__name__ for value in values if value is not None})
        raise DataError(
            f"column {name!r} holds values of several types",
            where=f"column {name!r}",
            got=kinds,
            allowed="values of one type",
        ) from error


def _other_length(feature: Feature, lengths: NDArray[np.int64]) -> DataError:
    row = int(np.argmax(lengths != feature.dim))
    return DataError(
        f"feature {feature.name!r} needs lists of {feature.dim} numbers",
        where=f"column {feature.column!r}, row number {row} of those handed over",
        got=int(lengths[row]),
        allowed=feature.dim,
    )


def joined_ids(feature: str) -> str:
    """Return the raw column that holds a feature's ids where a join has made them already."""
    return f"__ids_{feature}"


def id_array(tokens: Tokens, ids: Codes) -> pa.Array:
    """Return ids as a prepared column: int64 [N], or list<int64> [N] where a row holds a list of tokens."""
    values = pa.array(ids, pa.int64())
    if tokens.offsets is None:
        return values
    return pa.ListArray.from_arrays(pa.array(tokens.offsets, pa.int32()), values)
