"""A feature spec applied to one row with plain Python."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tests.support.plain_ops import (
    PlainVocabulary,
    Token,
    crossed,
    hash_id,
    read,
    through,
    token_of,
    tokens_of,
)
from trainer.schema import Feature, FeatureSpec


class PlainScorer:
    """Makes the inputs of a model of one row of texts, as they stand in a raw file; empty text is missing."""

    def __init__(self, spec: FeatureSpec, dataset: Path) -> None:
        self._spec = spec
        self._vocabularies = dict(_vocabularies(spec, dataset))
        self._time_formats = spec.time_formats
        self._encodings = {f.name: _Encoding(f, dataset) for f in spec.features if _is_encoded(f)}

    def inputs(self, row: dict[str, str | None]) -> dict[str, Any]:
        """Return a float32, an id or a list of ids by feature."""
        row = {**row, **{name: _moment(row[name], form) for name, form in self._time_formats.items()}}
        return {f.name: self._input(f, row) for f in self._spec.features}

    def _input(self, feature: Feature, row: dict[str, str | None]) -> Any:
        ops = [(op.name, op.params) for op in feature.ops]
        if feature.name in self._encodings:
            value: Any = self._encodings[feature.name].of(row)
        elif ops and ops[0][0] == "cross":
            value = crossed([row[name] for name in ops.pop(0)[1]["columns"]])
        else:
            value = read(row[feature.column], ops, feature.kind)
        made = through(value, ops)
        if feature.kind == "dense":
            return np.float32(made)
        ids = [self._id(feature, token) for token in tokens_of(made)]
        return ids if feature.is_list else ids[0]

    def _id(self, feature: Feature, token: Token) -> int:
        last = feature.ops[-1] if feature.ops else None
        if last is None or last.name not in ("hash", "vocabulary"):
            return 0 if token is None else int(token)
        if last.name == "hash":
            return hash_id(token, last.params["num_buckets"], last.params["seed"])
        return self._vocabularies[feature.name].id_of(token)


def _moment(text: str | None, form: str) -> str | None:
    return None if text is None else str(datetime.datetime.strptime(text, form))


class _Encoding:
    """The table of a target encoding, for rows that it was not made of."""

    def __init__(self, feature: Feature, dataset: Path) -> None:
        assert feature.derived is not None
        self._params = feature.derived.params
        self._table = {}
        for path in (dataset / self._params["table"]).glob("*.parquet"):
            for found in pq.read_table(path).to_pylist():
                self._table[found["key"]] = (found["count"], found["sum"])

    def of(self, row: dict[str, str | None]) -> float:
        """Return the smoothed mean label of the training rows with the row's ids."""
        tokens = [token_of(row[name]) for name in self._params["by"]]
        key = tokens[0] if len(tokens) == 1 else json.dumps(tokens, separators=(",", ":"), ensure_ascii=False)
        count, total = self._table.get(key, (0, 0.0)) if all(tokens) else (0, 0.0)
        smoothing, prior = self._params["smoothing"], self._params["prior"]
        return float((total + smoothing * prior) / (count + smoothing)) if count else float(prior)


def _is_encoded(feature: Feature) -> bool:
    return feature.derived is not None and feature.derived.name == "target_encoding"


def _vocabularies(spec: FeatureSpec, dataset: Path) -> Iterator[tuple[str, PlainVocabulary]]:
    for feature in spec.features:
        if feature.vocabulary is not None:
            ids: dict[str, int] = {}
            for path in (dataset / feature.vocabulary).glob("*.parquet"):
                table = pq.read_table(path)
                ids.update(zip(table["value"].to_pylist(), table["id"].to_pylist(), strict=True))
            params = feature.ops[-1].params
            yield feature.name, PlainVocabulary(ids, params["oov_buckets"], params["missing"])
