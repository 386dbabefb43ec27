"""A feature spec applied to one row with plain Python: dictionaries, lists and the math module."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import xxhash

from trainer.schema import Feature, FeatureSpec, FittedOp


class PlainScorer:
    """Makes the inputs of a model of one row of texts, as they stand in a raw file; empty text is missing."""

    def __init__(self, spec: FeatureSpec, dataset: Path) -> None:
        self._spec = spec
        folders = {f.vocabulary for f in spec.features if f.vocabulary is not None}
        self._vocabularies = {folder: _read(dataset / folder) for folder in folders}

    def inputs(self, row: dict[str, str | None]) -> dict[str, Any]:
        """Return a float32, an id or a list of ids by feature."""
        return {f.name: self._input(f, row) for f in self._spec.features}

    def _input(self, feature: Feature, row: dict[str, str | None]) -> Any:
        if feature.kind == "dense":
            text = (row[feature.column] or "").strip()
            number = float(text) if text else math.nan
            for op in feature.ops:
                number = _number(number, op)
            return np.float32(number)
        tokens: list[str | None] = [row.get(feature.column) or None]
        if feature.ops and feature.ops[0].name == "cross":
            parts = [row[name] for name in feature.ops[0].params["columns"]]
            tokens = [" & ".join(p.replace("&", "\\&") for p in parts if p) if all(parts) else None]
        for op in feature.ops:
            if op.name == "split":
                text = tokens[0]
                tokens = [part or None for part in text.split(op.params["delimiter"])] if text else []
            elif op.name == "lower":
                tokens = [None if token is None else token.lower() for token in tokens]
            elif op.name == "fill":
                tokens = [str(op.params["value"]) if token is None else token for token in tokens]
        if feature.is_list:
            return [self._id(feature, token) for token in tokens if token is not None]
        return self._id(feature, tokens[0])

    def _id(self, feature: Feature, token: str | None) -> int:
        if token is None:
            return 0
        last = feature.ops[-1]
        if last.name == "hash":
            text = f"{last.params['seed']}:{token}".encode()
            hashed = xxhash.xxh64_intdigest(text, seed=42)
            signed = hashed - (1 << 64) if hashed >> 63 else hashed
            return int(signed % last.params["num_buckets"] + 1)
        assert feature.vocabulary is not None
        return self._vocabularies[feature.vocabulary].get(token, 1)


def _number(x: float, op: FittedOp) -> float:
    params = op.params
    if op.name == "fill":
        return float(params["value"]) if math.isnan(x) else x
    if op.name == "clip":
        low = -math.inf if params["min"] is None else params["min"]
        high = math.inf if params["max"] is None else params["max"]
        return x if math.isnan(x) else min(max(x, low), high)
    if op.name == "log1p":
        return math.log1p(x)
    assert op.name == "standardise", op.name
    return float((x - params["mean"]) / (params["std"] or 1.0))


def _read(folder: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path)
        found.update(zip(table["value"].to_pylist(), table["id"].to_pylist(), strict=True))
    return found
