"""Whether a run folder may be trained in: it is empty, or its run goes on with the same config and data."""

from __future__ import annotations

from typing import Any

from jobs.results import Dataset
from trainer.config import RunConfig
from trainer.errors import CheckpointError, ConfigError, DataError
from trainer.run_folder import RunFolder

# Settings that may change between the parts of a resumed run: how long, how often, where, how fast.
# Checkpoints are read under any layout of the dense part and any groups of the tables.
_FREE_TRAIN_KEYS = frozenset(
    {
        "epochs",
        "max_steps",
        "evaluate_every_steps",
        "early_stopping",
        "guard",
        "checkpoint_every_steps",
        "keep_checkpoints",
        "log_every_steps",
        "process_group_timeout_seconds",
        "max_restarts",
        "dense_parallel",
        "dense_shard_group_size",
        "table_shard_group_size",
        "table_sync_every_steps",
        "table_communication",
        "table_output_dtype",
        "pipeline",
    }
)
# Checkpoints are read under any plan, and hold what was learnt from pretrained vectors.
_FREE_TABLE_KEYS = frozenset(
    {
        "sharding_types",
        "compute_kernels",
        "min_partition",
        "cache_load_factor",
        "lookup_group",
        "ranks",
        "enforce_hbm",
        "bounds_check_mode",
        "pretrained",
    }
)
_FIXED_DATA_KEYS = frozenset({"num_lanes", "reader", "shuffle_window_row_groups"})


def differing_keys(old: Any, new: Any, path: str = "") -> list[str]:
    """Return `key: old -> new` for every leaf in which two plain values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(old) + [key for key in new if key not in old]
        return [
            line
            for key in keys
            for line in differing_keys(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line
            for number, pair in enumerate(zip(old, new, strict=True))
            for line in differing_keys(*pair, f"{path}.{number}")
        ]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


def check_resumable(folder: RunFolder, run: RunConfig, dataset: Dataset, resume: bool) -> None:
    """Check that a run folder is empty, or that its unfinished run may go on with this config."""
    if not folder.config_file.exists():
        return
    started = bool(folder.saved_checkpoints())
    if started and not resume:
        raise CheckpointError(
            "the run folder holds checkpoints of an earlier run",
            where=str(folder.path),
            fixes=["go on with it: --resume", "choose another folder: --out FOLDER", "delete the folder"],
        )
    if not started:
        return
    differences = differing_keys(_fixed(folder.config()), _fixed(run))
    if differences:
        raise ConfigError(
            "the run cannot go on with another config than it was started with",
            where=str(folder.path),
            got="; ".join(differences[:5]),
            fixes=["set these keys back", "choose another folder: --out FOLDER"],
        )
    manifest = folder.manifest()
    manifest.require_spec(dataset.manifest.spec, str(dataset.path))
    # The place in the data is counted in these very rows.
    if manifest.splits != dataset.manifest.splits:
        rows = [{name: split.rows for name, split in m.splits.items()} for m in (dataset.manifest, manifest)]
        raise DataError(
            "the data set holds other rows or files than the run was started on",
            where=str(dataset.path),
            got=rows[0],
            allowed=f"{rows[1]}, in the same part files and row groups",
            fixes=[f"use {folder.dataset()}", "choose another folder: --out FOLDER"],
        )


def _fixed(run: RunConfig) -> dict[str, Any]:
    values = run.as_dict()
    train_keys = {key: value for key, value in values["train"].items() if key not in _FREE_TRAIN_KEYS}
    data_keys = {key: value for key, value in values["data"].items() if key in _FIXED_DATA_KEYS}
    tables = {
        glob: {key: value for key, value in table.items() if key not in _FREE_TABLE_KEYS}
        for glob, table in values["tables"].items()
    }
    kept = {key: values[key] for key in ("seed", "model", "features")}
    # A glob that says nothing but where its tables lie may come and go.
    return {
        **kept,
        "tables": {g: t for g, t in tables.items() if any(v is not None for v in t.values())},
        "train": train_keys,
        "data": data_keys,
    }
