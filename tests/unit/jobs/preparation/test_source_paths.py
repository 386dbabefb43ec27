"""Where raw rows may lie: URLs of this machine's files are opened as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.preparation.files import find_files
from trainer.config import SourceConfig
from trainer.errors import ConfigError, DataError


@pytest.mark.parametrize("local", [True, False], ids=["spark here", "spark on a cluster"])
def test_file_urls_are_found_on_this_machine(tmp_path: Path, local: bool) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n")
    whole = find_files(
        SourceConfig(path=f"file://{tmp_path}/rows.csv", header=True), "/", "data.source", local=local
    )
    below = find_files(
        SourceConfig(path="rows.csv", header=True), f"file://{tmp_path}", "data.source", local=local
    )
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
        find_files(SourceConfig(path=url, header=True), "/", "data.source", local=False)


TWICE = {
    "a file": (["a.csv", "./a.csv"], "a.csv"),
    "a folder": (["days", "days"], "days/b.csv"),
    "a file and its folder": (["days/b.csv", "days"], "days/b.csv"),
    "a folder and a glob": (["days", "days/*.csv"], "days/b.csv"),
    "a folder and a partition of it": (["parts", "parts/day=1"], "parts/day=1/c.csv"),
    "globs": (["*.csv", "a*"], "a.csv"),
    "a link": (["a.csv", "link.csv"], "link.csv"),
    "a URL": (["a.csv", "file:{}/a.csv"], "a.csv"),
    "a store": (["s3a://bucket/a.csv", "s3a://bucket/a.csv"], "s3a://bucket/a.csv"),
}


@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
@pytest.mark.parametrize(("entries", "file"), TWICE.values(), ids=list(TWICE))
def test_a_file_named_twice_is_refused_with_both_entries(
    tmp_path: Path, entries: list[str], file: str, kind: str
) -> None:
    for name in ("a.csv", "days/b.csv", "parts/day=1/c.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x\n1\n")
    (tmp_path / "link.csv").symlink_to("a.csv")
    entries = [entry.format(tmp_path) for entry in entries]
    if entries[0] == "*.csv":
        (tmp_path / "link.csv").unlink()
    options = {"header": True} if kind == "csv" else {}
    source = SourceConfig(path=entries, format=kind, **options)
    with pytest.raises(ConfigError, match="named twice") as error:
        find_files(source, str(tmp_path), "data.source", local=True)
    assert error.value.where == "data.source.path"
    place = file if ":" in file else str(tmp_path / file)
    assert error.value.got == f"{place}, by {entries[0]!r} and by {entries[1]!r}"


def test_folders_of_which_neither_reads_the_other_are_no_double(tmp_path: Path) -> None:
    for name in ("a.csv", "sub/b.csv"):
        (tmp_path / "days" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "days" / name).write_text("x\n1\n")
    source = SourceConfig(path=["days", "days/sub"], header=True)
    found = find_files(source, str(tmp_path), "data.source", local=True)
    assert found.here == [str(tmp_path / "days" / name) for name in ("a.csv", "sub/b.csv")]
