"""Tables on their way from task to task."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from jobs.preparation.streams import Streams, received

TABLES = [pa.table({"x": list(range(count)), "t": ["é" * n for n in range(count)]}) for count in (0, 3, 70)]


@pytest.mark.parametrize("through_files", [False, True])
def test_tables_arrive_as_they_were_sent(tmp_path: Path, through_files: bool) -> None:
    streams = Streams(str(tmp_path) if through_files else None)
    with streams.sender() as one, streams.sender() as two:
        sent = [sender.send(table) for table in TABLES for sender in (one, two)]
        # A task may read what another one that is still at work has sent.
        assert received(sent[-1]).equals(TABLES[-1])
    assert [received(data) for data in sent] == [table for table in TABLES for _ in range(2)]
    assert len(list(tmp_path.iterdir())) == (2 if through_files else 0)


def test_a_sender_without_tables_leaves_no_file(tmp_path: Path) -> None:
    with Streams(str(tmp_path)).sender():
        pass
    assert not any(tmp_path.iterdir())
