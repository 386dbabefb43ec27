"""Where raw rows may lie: URLs of this machine's files are opened as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.preparation.files import find_files
from trainer.config import SourceConfig
from trainer.errors import DataError


@pytest.mark.parametrize("local", [True, False], ids=["spark here", "spark on a cluster"])
def test_file_urls_are_found_on_this_machine(tmp_path: Path, local: bool) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n")
    whole = find_files(SourceConfig(path=f"file://{tmp_path}/rows.csv"), "/", "data.source", local=local)
    below = find_files(SourceConfig(path="rows.csv"), f"file://{tmp_path}", "data.source", local=local)
    assert whole.here == below.here == [str(tmp_path / "rows.csv")]
    assert whole.format == "csv"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("dbfs:/Volumes/ml/ads/none.csv", "/Volumes/ml/ads/none.csv"),
        ("dbfs:/ads/none.csv", "/dbfs/ads/none.csv"),
    ],
)
def test_databricks_urls_are_looked_for_where_clusters_mount_them(url: str, path: str) -> None:
    with pytest.raises(DataError, match=path):
        find_files(SourceConfig(path=url), "/", "data.source", local=False)
