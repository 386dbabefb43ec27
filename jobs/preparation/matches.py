"""How many rows found a row in each side table, for the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from jobs.preparation.survey import Survey
from jobs.preparation.user_events import Events
from trainer.config import RunConfig
from trainer.records import JoinedTable


def joined_tables(
    run: RunConfig, counted: Survey | Events, before: Sequence[JoinedTable] = ()
) -> tuple[JoinedTable, ...]:
    """Return the side tables of a run with the rows that have no match in them.

    Args:
        run: names the tables.
        counted: the rows.
        before: what was found of the rows that the data set held already.
    """
    tables: list[JoinedTable] = []
    for number, (join, old) in enumerate(zip_longest(run.data.joins, before[: len(run.data.joins)])):
        unmatched = counted.unmatched.get(str(number), 0)
        source = join.source.table or ", ".join(join.source.paths())
        rows = counted.source_rows
        if old is not None:
            rows, unmatched = rows + old.rows, unmatched + old.unmatched
        tables.append(JoinedTable(source=source, on=tuple(join.on), rows=rows, unmatched=unmatched))
    return tuple(tables)
