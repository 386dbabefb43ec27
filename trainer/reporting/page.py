"""Puts the sections together and writes the page."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trainer.reporting import formats
from trainer.reporting.baselines import compared, comparison_tables
from trainer.reporting.curves import charts, constant_learning_rate, evaluation_table
from trainer.reporting.dataset import base_rate, feature_tables, split_rows
from trainer.reporting.evaluation import interval_tables, list_tables, segment_tables, split_table
from trainer.reporting.figures import Chart
from trainer.reporting.guard import GuardFinding, guard_findings
from trainer.reporting.headline import Status, status, tiles
from trainer.reporting.id_table import id_table
from trainer.reporting.plan_view import PlanView, plan_view
from trainer.reporting.recommended import UserList, num_users_left_out, user_lists
from trainer.reporting.records import RunRecords, read_run
from trainer.reporting.rendering import write_page
from trainer.reporting.setting import Facts, environment_facts, setup_facts, version_table
from trainer.reporting.tables import Table, Tile
from trainer.reporting.task_metrics import of_tasks
from trainer.schema import Manifest

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Page:
    """What the template shows; an empty part leaves its section out."""

    name: str
    subtitle: str
    status: Status
    synthetic: bool
    tiles: tuple[Tile, ...]
    charts: tuple[Chart, ...]
    curves_note: str
    guard: tuple[GuardFinding, ...]
    evaluations: Table | None
    quality: tuple[Table, ...]
    baselines: tuple[Table, ...]
    users: tuple[UserList, ...]
    users_left_out: int
    data_facts: Facts
    data_splits: Table | None
    features: tuple[Table, ...]
    layout: PlanView | None
    ids: Table | None
    setup: Facts
    environment: Facts
    versions: Table | None
    config_text: str
    notes: tuple[str, ...]
    footer: str

    @property
    def contents(self) -> tuple[tuple[str, str], ...]:
        """Return anchor and title of the sections that are there."""
        sections = (
            (bool(self.guard), "guard", "Training guard"),
            (bool(self.charts), "curves", "Curves"),
            (bool(self.quality), "evaluation", "Evaluation"),
            (bool(self.baselines), "baselines", "Beside baselines"),
            (bool(self.users), "recommendations", "Recommendations"),
            (self.data_splits is not None, "data", "Data"),
            (self.layout is not None, "plan", "Tables and plan"),
            (True, "setup", "Set-up and environment"),
        )
        return tuple((anchor, title) for there, anchor, title in sections if there)


def write_report(run_folder: Path, baselines: Iterable[Path] = ()) -> Path:
    """Write the one-page HTML report of a run.

    The page needs nothing but itself: no network, no script. What the folder lacks leaves its section out, so
    that a run can be reported while it is still going on.

    Args:
        run_folder: holds at least `config.yaml` and `metrics.jsonl`.
        baselines: folders that `baseline` wrote, to show beside the run.

    Returns:
        The path of `report.html` in the run folder.

    Raises:
        DataError: the folder is no run folder, one of the baselines cannot be compared with the run, or the
            report cannot be written.
    """
    run_folder = Path(run_folder)
    return write_page(run_folder / REPORT_FILE, "report.html.j2", make_page(read_run(run_folder), baselines))


def make_page(run: RunRecords, baselines: Iterable[Path] = ()) -> Page:
    """Return the page's contents."""
    manifest, history = run.manifest, run.history
    recommendations, environment = run.recommendations or {}, run.environment or {}
    found = of_tasks(run.evaluations)
    splits = split_table(found)
    return Page(
        name=run.name,
        subtitle=_subtitle(run),
        status=status(run),
        synthetic=manifest is not None and manifest.synthetic,
        tiles=tiles(run),
        charts=charts(history),
        curves_note=_curves_note(run),
        guard=guard_findings(history),
        evaluations=evaluation_table(history, (run.result or {}).get("best_step")),
        quality=(splits, *list_tables(found), *interval_tables(found), *segment_tables(found))
        if splits
        else (),
        baselines=comparison_tables(compared(run, baselines)),
        users=user_lists(recommendations),
        users_left_out=num_users_left_out(recommendations),
        data_facts=_data_facts(manifest) if manifest else (),
        data_splits=split_rows(manifest) if manifest else None,
        features=feature_tables(manifest) if manifest else (),
        layout=plan_view(run.plan) if run.plan else None,
        ids=id_table(history),
        setup=setup_facts(run),
        environment=environment_facts(environment),
        versions=version_table(environment),
        config_text=run.config_text,
        notes=run.notes,
        footer=f"Written on {formats.moment(time.time())} by shardrec.",
    )


def _subtitle(run: RunRecords) -> str:
    model = run.setting("model.name")
    data = run.manifest.name if run.manifest else None
    started = formats.finite_number(run.history.starts[0].get("time")) if run.history.starts else None
    parts = [str(model) if model else "", f"on {data}" if data else ""]
    text = " ".join(part for part in parts if part)
    if started is None:
        return text
    when = f"started {formats.moment(started)}"
    return f"{text}, {when}" if text else when


def _curves_note(run: RunRecords) -> str:
    notes = []
    rate = constant_learning_rate(run.history)
    if rate is not None:
        notes.append(f"The dense learning rate was {formats.general(rate)} at every logged step.")
    resumes = [f"{step:,}" for step in run.history.resumed_at]
    if resumes:
        notes.append(f"Dotted lines: the run was resumed at step {', '.join(resumes)}.")
    return " ".join(notes)


def _data_facts(manifest: Manifest) -> Facts:
    return (
        ("Data set", manifest.name + (" (synthetic)" if manifest.synthetic else "")),
        ("Prepared", formats.moment(manifest.created)),
        ("Base rate", formats.percent(base_rate(manifest), 2)),
        ("Feature spec", f"{manifest.spec.hash}, {len(manifest.spec.features)} features"),
    )
