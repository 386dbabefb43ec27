"""Puts the data report together and writes the page."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from trainer.reporting import formats
from trainer.reporting.data import tables
from trainer.reporting.data.cards import Bar, Card, dense_cards, id_cards, left_out
from trainer.reporting.data.findings import KINDS, Finding, Kind, findings
from trainer.reporting.data.profile import MAX_ROWS, DataProfile, profile_dataset
from trainer.reporting.dataset import base_rate, label_table, split_rows
from trainer.reporting.figures import Chart, Key
from trainer.reporting.rendering import write_page
from trainer.reporting.tables import Table, Tile, make_table
from trainer.schema import Manifest

REPORT_FILE = "report.html"
_MAX_NAMED = 12


@dataclass(frozen=True)
class FindingGroup:
    """The findings of one kind; `lines` name subject and number, `more` is how many have no line."""

    kind: Kind
    lines: tuple[tuple[str, str], ...]
    more: int


@dataclass(frozen=True)
class DataPage:
    """What the template shows."""

    name: str
    subtitle: str
    synthetic: bool
    tiles: tuple[Tile, ...]
    groups: tuple[FindingGroup, ...]
    splits: Table
    tasks: Table | None
    cleaning: Table
    remarks: tuple[str, ...]
    label_chart: Chart | None
    label_note: str
    keys: tuple[Key, ...]
    drift: tuple[Bar, ...]
    auc: tuple[Bar, ...]
    comparison: Table
    dense: tuple[Card, ...]
    dense_note: str
    dense_table: Table
    ids: tuple[Card, ...]
    ids_note: str
    ids_table: Table
    looked_at: str
    footer: str

    @property
    def contents(self) -> tuple[tuple[str, str], ...]:
        """Return anchor and title of the sections that are there."""
        sections = (
            (True, "look", "What to look at"),
            (True, "label", "Label"),
            (bool(self.cleaning.rows or self.remarks), "rows", "Rows left out, and remarks"),
            (bool(self.comparison.rows), "compared", "Drift and leakage"),
            (bool(self.dense), "dense", "Dense features"),
            (bool(self.ids), "ids", "Id features"),
            (True, "method", "How this was reckoned"),
        )
        return tuple((anchor, title) for there, anchor, title in sections if there)


@dataclass(frozen=True)
class DataReport:
    """A written data report: where it lies, and what it found."""

    path: Path
    findings: tuple[Finding, ...]


def write_data_report(folder: str | Path, *, max_rows: int = MAX_ROWS, seed: int = 1) -> DataReport:
    """Write the one-page HTML report of a prepared data set.

    Looks at a seeded sample of row groups, one feature at a time, so that neither memory nor time grow with
    the data set.

    Args:
        folder: data set folder.
        max_rows: rows looked at, all splits together; fewer where there are more than forty features.
        seed: fixes the sample.

    Raises:
        DataError: the folder is no data set, or the report cannot be written.
    """
    folder = Path(folder)
    data = profile_dataset(folder, Manifest.load(folder), max_rows, seed)
    found = findings(data)
    return DataReport(write_page(folder / REPORT_FILE, "data.html.j2", make_page(data, found)), found)


def make_page(data: DataProfile, found: tuple[Finding, ...]) -> DataPage:
    """Return the page's contents."""
    manifest, flags = data.manifest, _flags(found)
    return DataPage(
        name=manifest.name,
        subtitle=f"prepared {formats.moment(manifest.created)}, feature spec {manifest.spec.hash}",
        synthetic=manifest.synthetic,
        tiles=_tiles(data, found),
        groups=_groups(found),
        splits=split_rows(manifest),
        tasks=label_table(manifest),
        cleaning=_cleaning(manifest),
        remarks=manifest.remarks,
        label_chart=_label_chart(data),
        label_note=_label_note(data),
        keys=tuple(Key(number, name) for number, name in enumerate(data.looked_at, start=1)),
        drift=tables.drift_bars(data),
        auc=tables.auc_bars(data),
        comparison=tables.comparison_table(data),
        dense=dense_cards(data, flags),
        dense_note=left_out(len(data.dense)),
        dense_table=tables.dense_table(data),
        ids=id_cards(data, flags),
        ids_note=left_out(len(data.ids)),
        ids_table=tables.id_table(data),
        looked_at=_looked_at(data),
        # The time of the data set, so that equal data sets have equal pages.
        footer=f"Written by shardrec {manifest.versions.get('shardrec', '')}".strip() + ".",
    )


def _tiles(data: DataProfile, found: tuple[Finding, ...]) -> tuple[Tile, ...]:
    manifest, spec = data.manifest, data.manifest.spec
    rows, seen = sum(split.rows for split in manifest.splits.values()), sum(data.looked_at.values())
    grave = sum(KINDS[finding.kind].level == "high" for finding in found)
    sequences = sum(feature.kind == "sequence" for feature in spec.sparse)
    numbers = {
        "dense": len(spec.dense),
        "sparse": len(spec.sparse) - sequences,
        "sequence": sequences,
        "vector": len(spec.vectors),
    }
    kinds = ", ".join(f"{number} {kind}" for kind, number in numbers.items() if number)
    return (
        Tile("Rows", formats.count(rows), f"in {len(data.looked_at)} splits"),
        Tile("Label rate", formats.percent(base_rate(manifest), 2), "share of positive rows"),
        Tile("Features", formats.count(len(spec.features)), kinds),
        Tile(
            "Rows looked at",
            formats.count(seen),
            "all of them" if data.is_whole else "a sample of row groups",
        ),
        Tile("Findings", formats.count(len(found)), f"{grave} grave" if grave else "none grave"),
    )


def _cleaning(manifest: Manifest) -> Table:
    rows = [(step.name, formats.count(step.dropped), formats.count(step.left)) for step in manifest.cleaning]
    return make_table("What data.clean dropped, rule by rule", ("Rule", "Rows dropped", "Rows left"), rows)


def _groups(found: tuple[Finding, ...]) -> tuple[FindingGroup, ...]:
    groups = []
    for kind, members in groupby(found, key=lambda finding: finding.kind):
        lines = [(" = ".join(finding.subject), finding.text) for finding in members]
        groups.append(FindingGroup(KINDS[kind], tuple(lines[:_MAX_NAMED]), max(0, len(lines) - _MAX_NAMED)))
    return tuple(groups)


def _flags(found: tuple[Finding, ...]) -> dict[str, tuple[str, ...]]:
    """Return the findings of each feature in a few words."""
    flags: dict[str, tuple[str, ...]] = {}
    for finding in found:
        text = finding.text or KINDS[finding.kind].title.lower()
        for name in finding.subject:
            flags[name] = (*flags.get(name, ()), text)
    return flags


def _label_chart(data: DataProfile) -> Chart | None:
    if data.labels is None:
        return None
    from trainer.reporting.data.label_chart import label_chart  # matplotlib, which takes a second to load

    return label_chart(data.labels)


def _label_note(data: DataProfile) -> str:
    if data.manifest.spec.tasks[0].is_rating:
        return "The label is a rating. What tells it alone is judged by whether it is above its mean."
    if data.labels is None:
        return (
            "Nothing tells the time, so there is no label rate over time: name the time column under "
            "data.keep and prepare again."
        )
    source = "all rows and their column" if data.labels.counted else "the kept column"
    order = "" if len(data.labels.curves) == 1 and "all" in data.labels.curves else " of each split"
    return (
        f"By {source} {data.labels.column}, in points of about equally many rows{order}. The band is two "
        "standard errors wide on either side."
    )


def _looked_at(data: DataProfile) -> str:
    if data.is_whole:
        return "All rows were looked at."
    parts = [
        f"{seen:,} of {data.manifest.splits[name].rows:,} in {name}"  # type: ignore[index]
        for name, seen in data.looked_at.items()
    ]
    return f"Whole row groups chosen at random by a fixed seed were looked at: {', '.join(parts)} rows."
