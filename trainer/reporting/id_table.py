"""What became of ids that come and go: one row for each table that has them."""

from __future__ import annotations

from trainer.reporting import formats
from trainer.reporting.history import History, Record
from trainer.reporting.tables import Table, make_table

_TITLES = ("Table", "Slots in use", "Admitted", "Evicted", "Lookups without a row")


def id_table(history: History) -> Table | None:
    """Return who came and went in the whole run, with slots in use and lookups without a row at its end."""
    by_table: dict[str, list[Record]] = {}
    for record in history.ids:
        by_table.setdefault(str(record.get("table")), []).append(record)
    if not by_table:
        return None
    rows = [
        (
            table,
            formats.percent(records[-1].get("occupancy"), 1),
            *(formats.count(_sum(records, key)) for key in ("admitted", "evicted")),
            formats.percent(records[-1].get("oov_share"), 2),
        )
        for table, records in by_table.items()
    ]
    note = "Slots and lookups at the last log. An id without a row of its own shares row 1 with all others."
    return make_table("Ids that come and go", _TITLES, rows, note=note)


def _sum(records: list[Record], key: str) -> float:
    return sum(formats.finite_number(record.get(key)) or 0 for record in records)
