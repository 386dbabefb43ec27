"""The top of the report: what ran, whether it finished, and the numbers that one looks for first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config.metrics import telling_names
from trainer.reporting import formats
from trainer.reporting.metric_columns import shown, title_of
from trainer.reporting.records import RunRecords
from trainer.reporting.tables import Tile
from trainer.run_folder import early_stop_text

# What `samples_per_second` of result.json means.
_RATE_NOTE = "all ranks, without the time of validation and checkpoints"
_SPLIT_TITLES = {"train": "Training", "valid": "Validation", "test": "Test"}


@dataclass(frozen=True)
class Status:
    """How far the run came: `kind` is `finished`, `interrupted` (by the guard too) or `open`."""

    kind: str
    label: str
    detail: str


@dataclass(frozen=True)
class Quality:
    """The metrics of the headline and the rows that they are over."""

    split: str
    metrics: Mapping[str, Any]
    rows: float | None

    @property
    def title(self) -> str:
        """Return the split in words."""
        return _SPLIT_TITLES.get(self.split, self.split)


def status(run: RunRecords) -> Status:
    """Return whether the run finished, was stopped, or is open (running, or killed)."""
    steps, total = run.history.last_step, _total_steps(run)
    of_total = f"step {steps:,} of {total:,}" if total else f"step {steps:,}"
    if run.result is not None:
        if run.result.get("stopped") == "interrupted":
            return Status(
                "interrupted", "Interrupted", f"Stopped on request at {of_total}; it can be resumed."
            )
        if run.result.get("stopped") == "guard":
            return Status(
                "interrupted", "Stopped by the guard", f"Stopped at {of_total}, as its findings below say."
            )
        told = early_stop_text(run.result, total)
        return Status("finished", "Finished", f"{told[0].upper()}{told[1:]}." if told else "")
    detail = f"No result yet: {of_total}, last record written {formats.moment(run.last_written)}."
    return Status("open", "Running or interrupted", detail)


def quality(run: RunRecords) -> Quality | None:
    """Return the metrics to show first: of the test split, else another split, else the last validation."""
    for split, evaluation in run.evaluations.items():
        metrics = evaluation.get("metrics")
        if isinstance(metrics, dict) and metrics:
            return Quality(split, metrics, formats.finite_number(evaluation.get("rows")))
    metrics = (run.result or {}).get("metrics")
    if not metrics and run.history.evaluations:
        metrics = run.history.evaluations[-1]
    if not isinstance(metrics, dict) or not metrics:
        return None
    return Quality("valid", metrics, formats.finite_number(metrics.get("rows")))


def tiles(run: RunRecords) -> tuple[Tile, ...]:
    """Return the headline numbers: quality first, then cost."""
    return (*_quality_tiles(quality(run)), *_cost_tiles(run))


def _quality_tiles(quality: Quality | None) -> tuple[Tile, ...]:
    if quality is None:
        return ()
    metrics = quality.metrics
    base_rate = formats.finite_number(metrics.get("base_rate"))
    majority = "" if base_rate is None else f"larger class {formats.percent(max(base_rate, 1 - base_rate))}"
    entropy = _ratio(metrics.get("log_loss"), metrics.get("ne"))
    notes = {
        "ne": "1 is the base rate alone, lower is better",
        "log_loss": "" if entropy is None else f"base rate alone {formats.decimal(entropy)}",
        "calibration": "predicted over observed positives",
        "accuracy": majority,
        "gauc": f"{formats.count(metrics.get('groups'))} groups",
    }
    names = [name for name in ("auc", "ne", "log_loss", "calibration", "accuracy", "rmse") if name in metrics]
    names += [name for name in telling_names(metrics) if name not in names]
    rows = f"{formats.count(quality.rows)} rows" if quality.rows else ""
    tiles: list[Tile] = []
    for name in names:
        value, note = shown(name, metrics.get(name)), notes.get(name, "")
        if name == "accuracy":
            value = formats.percent(metrics.get(name))
        first = not tiles
        note = "; ".join(filter(None, [rows, note])) if first else note
        tiles.append(Tile(f"{quality.title} {title_of(name)}" if first else title_of(name), value, note))
    return tuple(tiles)


def _cost_tiles(run: RunRecords) -> tuple[Tile, ...]:
    last = run.result or {}
    start = run.history.starts[-1] if run.history.starts else {}
    total = _total_steps(run)
    steps = formats.finite_number(last.get("steps"))
    ranks = last.get("world_size") or start.get("world_size")
    seconds = last.get("seconds", run.history.seconds_since_start)
    peak = formats.finite_number(last.get("peak_memory_gib"))
    rate = last.get("samples_per_second") or _last_rate(run)
    batch = formats.finite_number(run.setting("train.global_batch_size"))
    return (
        Tile(
            "Steps", formats.count(run.history.last_step if steps is None else steps), _step_note(run, total)
        ),
        Tile("Samples/s", formats.count(rate), _RATE_NOTE if last else "all ranks, at the last record"),
        Tile("Wall time", formats.duration(seconds), _time_note(run)),
        Tile("Ranks", formats.count(ranks), "" if batch is None else f"global batch {formats.count(batch)}"),
        *(() if peak is None else (Tile("Peak memory", f"{peak:.2f}\u202fGiB", "of the largest rank"),)),
    )


def _step_note(run: RunRecords, total: int | None) -> str:
    best = formats.finite_number((run.result or {}).get("best_step"))
    epochs = formats.finite_number((run.result or {}).get("epochs"))
    if best is not None and best != formats.finite_number((run.result or {}).get("steps")):
        return f"best at step {best:,.0f}"
    if epochs:
        return f"{epochs:,.0f} full epoch{'s' if epochs != 1 else ''}"
    return f"of {total:,}" if total else ""


def _time_note(run: RunRecords) -> str:
    if run.history.resumed_at:
        return f"since the resume at step {run.history.resumed_at[-1]:,}"
    return "training, start to end" if run.result else "from the start to the last record"


def _total_steps(run: RunRecords) -> int | None:
    total = formats.finite_number(run.history.starts[-1].get("total_steps")) if run.history.starts else None
    return None if total is None else int(total)


def _last_rate(run: RunRecords) -> float | None:
    rates = run.history.train_curve("samples_per_second").values
    return rates[-1] if rates else None


def _ratio(over: object, under: object) -> float | None:
    numerator, denominator = formats.finite_number(over), formats.finite_number(under)
    return None if numerator is None or not denominator else numerator / denominator
