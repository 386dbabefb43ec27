"""What lies beside synthetic rows: the marker that says so, a page for people, a config for `prepare`."""

from __future__ import annotations

import hashlib
import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from jobs.preparation.commit import FolderKind
from jobs.synthesis.blocks import interacting_columns
from jobs.synthesis.shape import Shape
from jobs.synthesis.truth import Best, Truth
from jobs.synthesis.writing import LABEL, METADATA_KEY, ROWS_FOLDER
from trainer.config import RunConfig
from trainer.errors import DataError
from trainer.schema import SYNTHETIC_FILE

PAGE_FILE = "SYNTHETIC.md"
CONFIG_FILE = "config.yaml"
SYNTHETIC = FolderKind(SYNTHETIC_FILE, "synthetic data")
_LANES = 32
_LARGEST_BATCH = 2048


def check_nothing_added(target: Path) -> None:
    """Check that replacing synthetic data loses nothing that somebody else put into its folder.

    Raises:
        DataError: there is another file, or the config was changed.
    """
    if not (target / SYNTHETIC_FILE).is_file():
        return
    others = sorted(
        {path.name for path in target.iterdir()} - {SYNTHETIC_FILE, PAGE_FILE, CONFIG_FILE, ROWS_FOLDER}
    )
    if (target / CONFIG_FILE).is_file() and _digest(target / CONFIG_FILE) != _told_digest(target):
        others.append(f"{CONFIG_FILE}, which was changed")
    if others:
        raise DataError(
            "the folder of synthetic data holds more than synth put there, so it is not replaced",
            where=str(target),
            got=", ".join(others[:5]),
            fixes=["move it elsewhere", "choose another --out"],
        )


def write_beside_rows(
    staging: Path, target: Path, shape: Shape, truth: Truth, best: Best, positives: int
) -> dict[str, Any]:
    """Write the config, the page and, last, the marker; return what the marker says.

    Args:
        staging: folder under construction.
        target: where it will lie.
        shape: what was asked for.
        truth: bias and scale of the logit.
        best: metrics that the true probabilities reach.
        positives: rows with label 1.
    """
    config = staging / CONFIG_FILE
    config.write_text(config_text(shape, target, best), encoding="utf-8")
    (staging / PAGE_FILE).write_text(_page(shape, best), encoding="utf-8")
    told = {
        "synthetic": True,
        "what": LABEL,
        "rows": shape.rows,
        "positives": positives,
        "best": asdict(best),
        "options": shape.model_dump(mode="json"),
        "cardinalities": {**shape.sparse_columns, **shape.list_columns},
        "users": shape.num_users,
        "items": shape.num_items,
        "signal": {**asdict(truth), "interaction": interacting_columns(shape)},
        "config_sha256": _digest(config),
    }
    (staging / SYNTHETIC_FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def config_text(shape: Shape, folder: Path, best: Best) -> str:
    """Return a run config for the rows, as `prepare` and `train` take it."""
    config = _config(shape, folder)
    RunConfig.from_dict(config)
    notes = (
        f"SYNTHETIC rows made by `shardrec synth`: {shape.rows:,} rows, seed {shape.seed}. "
        f"No model can be expected to do better on all of them than {best.text()}."
    )
    comment = textwrap.fill(notes, 110, initial_indent="# ", subsequent_indent="# ")
    return f"{comment}\n{yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=110)}"


def _config(shape: Shape, folder: Path) -> dict[str, Any]:
    source: dict[str, Any] = {"path": ROWS_FOLDER, "format": shape.format}
    if shape.format == "tsv":
        source["columns"] = shape.columns
    data: dict[str, Any] = {"root": str(folder), "source": source, "label": {"column": "label"}}
    data["num_lanes"] = _LANES
    if shape.num_days:
        data["split"] = {"method": "time", "column": "event_time"}
    batch = min(_LARGEST_BATCH, max(_LANES, 2 ** (shape.rows.bit_length() - 7)))
    steps = max(1, shape.rows * 8 // 10 // batch)
    run: dict[str, Any] = {
        "name": "synthetic_criteo",
        "data": data,
        "features": _features(shape),
        "model": {
            "name": "dlrm",
            "embedding_dim": 16,
            "dense_arch_layer_sizes": [128, 64],
            "over_arch_layer_sizes": [128, 64],
        },
        "train": {
            "global_batch_size": batch,
            "epochs": 1,
            "dense_optimizer": {"name": "adam", "learning_rate": 0.001},
            "embedding_optimizer": {"name": "rowwise_adagrad", "learning_rate": 0.02},
            "schedule": {"warmup_steps": min(100, steps // 10)},
        },
    }
    if shape.history:
        run["recommend"] = {"user": "user_id", "item": "item_id", "time": "event_time"}
    return run


def _features(shape: Shape) -> dict[str, Any]:
    vocabulary: dict[str, Any] = {"vocabulary": {"min_count": 2, "max_size": 10_000_000}}
    features: dict[str, Any] = {}
    if shape.dense:
        features["dense"] = [{"columns": "I*", "ops": [{"fill": 0}, "log1p"]}]
    features["sparse"] = [{"columns": "C*", "ops": [vocabulary]}]
    if shape.multi_hot:
        cut = [{"split": "|"}] if shape.format == "tsv" else []
        features["sparse"].append({"columns": "M*", "ops": [*cut, vocabulary], "pooling": "mean"})
    if shape.history:
        features["sparse"].append({"columns": ["user_id", "item_id"], "ops": [vocabulary]})
        history = {"user": "user_id", "item": "item_id", "time": "event_time", "max_length": shape.history}
        features["sequence"] = [
            {"name": "history", "history": history, "table": "item_id", "pooling": "mean"},
        ]
    return features


def _page(shape: Shape, best: Best) -> str:
    options = "\n".join(
        f"- `{name}`: {value}" for name, value in shape.model_dump().items() if value is not None
    )
    return f"""# Synthetic data

Everything in this folder was made up by `shardrec synth`. The rows describe no real users, items or events,
and figures measured on them are figures on synthetic data.

{shape.rows:,} rows. Best that any model can be expected to reach on all of them: {best.text()}.

Options:

{options}

The files lie in `{ROWS_FOLDER}/`; each Parquet file says `{METADATA_KEY}` in its metadata. `{CONFIG_FILE}`
is a run config for `shardrec prepare`, `{SYNTHETIC_FILE}` tells machines what this page tells people.
"""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _told_digest(target: Path) -> str | None:
    try:
        told = json.loads((target / SYNTHETIC_FILE).read_text(encoding="utf-8"))
    except ValueError:
        return None
    return told.get("config_sha256") if isinstance(told, dict) else None
