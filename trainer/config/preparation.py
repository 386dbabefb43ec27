"""Which settings decide what the prepared rows hold, wherever the raw rows lie."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from trainer.config.data import DataConfig
from trainer.config.features import FeaturesConfig

# Keys of `data` that decide which rows a data set holds, and their labels and weights.
_ROW_KEYS = {"clean", "label", "weight", "weights_by", "downsample_negatives", "split", "negatives"}
# Keys of a feature group that shape its table but not the prepared data, and where its vectors lie.
_OTHER_KEYS: dict[str, Any] = {"__all__": {"embedding_dim": True, "pooling": True, "vectors": {"source"}}}


def preparation_settings(data: DataConfig, features: FeaturesConfig) -> dict[str, Any]:
    """Return the sections `features` and `data` without what shapes tables only.

    Keys that came later are left out where they are not set, as data sets made before them lack them.
    """
    kinds = dict.fromkeys(FeaturesConfig.model_fields, _OTHER_KEYS)
    kept: dict[str, Any] = {
        "data": data.model_dump(mode="json", include=_ROW_KEYS | _later_keys(data)),
        "features": features.model_dump(mode="json", exclude=kinds),
    }
    for group in (group for groups in kept["features"].values() for group in groups):
        for key in (key for key in ("dim", "delimiter") if group[key] is None):
            del group[key]
    if data.label is not None and data.label.kind == "binary":
        del kept["data"]["label"]["kind"]
    if data.labels:
        # A list, because the order of the tasks counts.
        kept["data"]["labels"] = [{"task": name, **rule} for name, rule in kept["data"]["labels"].items()]
    return kept


def settings_hash(settings: dict[str, Any]) -> str:
    """Return 16 hex digits over `preparation_settings`; `fill: 0` and `fill: 0.0` give the same."""
    values = {**settings, "features": _plain_numbers(settings["features"])}
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _later_keys(data: DataConfig) -> set[str]:
    return {key for key in ("time_formats", "labels", "user_rows", "catalogue") if getattr(data, key)}


def _plain_numbers(value: Any) -> Any:
    """Return a copy in which whole numbers have no fraction."""
    if isinstance(value, dict):
        return {key: _plain_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain_numbers(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
