"""The set-up section: the choices that shaped the run, and the machine and versions it ran with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.reporting import formats
from trainer.reporting.records import RunRecords, value_at
from trainer.reporting.tables import Table, make_table

Facts = tuple[tuple[str, str], ...]


def setup_facts(run: RunRecords) -> Facts:
    """Return the main choices of the config; what is not set is left out."""
    batch, starts = run.setting("train.global_batch_size"), run.history.starts
    per_rank = starts[-1].get("batch_size_per_rank") if starts else None
    batch_text = None if batch is None else formats.count(batch)
    if batch_text and per_rank:
        batch_text += f" ({formats.count(per_rank)} per rank)"
    dim = run.setting("model.embedding_dim")
    facts = {
        "Model": run.setting("model.name"),
        "Embedding dim": None if dim is None else formats.count(dim),
        "Global batch size": batch_text,
        "Dense optimizer": _optimizer(run.setting("train.dense_optimizer")),
        "Embedding optimizer": _optimizer(run.setting("train.embedding_optimizer")),
        "Schedule": _schedule(run.setting("train.schedule")),
        "Epochs asked for": run.setting("train.epochs"),
        "Precision": run.setting("train.precision"),
        "Reader": run.setting("data.reader"),
        "Seed": run.setting("seed"),
        "Checkpoints written": formats.count(len(run.history.checkpoints))
        if run.history.checkpoints
        else None,
        "Resumed": _resumes(run),
    }
    return tuple((name, str(value)) for name, value in facts.items() if value is not None)


def environment_facts(environment: Mapping[str, Any]) -> Facts:
    """Return host, Python, command and data set; what is not known is left out."""
    facts = {
        "Host": environment.get("host"),
        "Platform": environment.get("platform"),
        "Cores": environment.get("cores"),
        "Python": environment.get("python"),
        "Data set": environment.get("dataset"),
        "Command": environment.get("command"),
    }
    return tuple((name, str(value)) for name, value in facts.items() if value not in (None, ""))


def version_table(environment: Mapping[str, Any]) -> Table | None:
    """Return the versions of what the results depend on."""
    versions = environment.get("versions")
    if not isinstance(versions, dict) or not versions:
        return None
    rows = [(str(name), str(version)) for name, version in versions.items()]
    return make_table("Versions", ("Package", "Version"), rows, text=(0, 1))


def _optimizer(section: Any) -> str | None:
    name, rate = value_at(section, "name"), value_at(section, "learning_rate")
    if name is None:
        return None
    return f"{name}, learning rate {formats.general(rate)}"


def _schedule(section: Any) -> str | None:
    decay, warmup = value_at(section, "decay"), formats.finite_number(value_at(section, "warmup_steps"))
    if decay is None:
        return None
    return f"{decay}, {warmup:,.0f} warm-up steps" if warmup else str(decay)


def _resumes(run: RunRecords) -> str | None:
    steps = [f"{step:,}" for step in run.history.resumed_at]
    return f"at step {', '.join(steps)}" if steps else None
