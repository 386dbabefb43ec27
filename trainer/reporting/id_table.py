"""What became of ids that come and go: one row for each table that has them."""

from __future__ import annotations

from trainer.reporting import formats
from trainer.reporting.history import History, Record
from trainer.reporting.tables import Table, make_table

_TITLES = (
    "Table",
    "Slots",
    "In use",
    "Candidates",
    "Admitted",
    "Evicted",
    "Lookups without a row",
    "In validation",
)


def id_table(history: History) -> Table | None:
    """Return who came and went in the whole run; slots, candidates and lookups are those at its end."""
    by_table: dict[str, list[Record]] = {}
    for record in history.ids:
        by_table.setdefault(str(record.get("table")), []).append(record)
    if not by_table:
        return None
    told = [
        record["oov_share"] for record in history.evaluations if isinstance(record.get("oov_share"), dict)
    ]
    valid = told[-1] if told else {}
    rows = [
        (
            table,
            formats.count(records[-1].get("slots")),
            formats.percent(records[-1].get("occupancy"), 1),
            formats.count(records[-1].get("candidates")),
            *(formats.count(_sum(records, key)) for key in ("admitted", "evicted")),
            formats.percent(records[-1].get("oov_share"), 2),
            formats.percent(valid.get(table), 2),
        )
        for table, records in by_table.items()
    ]
    note = (
        "Slots, candidates (ids that were seen and have no slot) and lookups at the last log and evaluation. "
        "An id without a row of its own shares row 1 with all others."
    )
    return make_table("Ids that come and go", _TITLES, rows, note=note)


def _sum(records: list[Record], key: str) -> float:
    return sum(formats.finite_number(record.get(key)) or 0 for record in records)
