"""A text source without column names is shown the first line of its file, and what to write."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer.config.test_rows import run_of
from trainer.errors import ConfigError


def refused(root: Path, **source: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        run_of(root=str(root), source=source)
    return caught.value


@pytest.mark.parametrize(
    ("text", "source", "line", "first"),
    [
        ("user,y\n1,0\n", {}, "user,y", "header: true, if the line names the columns (user, y)"),
        ("\n7,ab,0,1\n", {}, "7,ab,0,1", "columns: [NAME_1, NAME_2, NAME_3, ...], with 4 name(s)"),
        ("user,,y\n", {}, "user,,y", "columns: [NAME_1, NAME_2, NAME_3], with 3 name(s)"),
        ("user;item\n", {}, "user;item", 'delimiter: ";", which parts the line in 2'),
        ("1::2\n", {"delimiter": "::"}, "1::2", "columns: [NAME_1, NAME_2], with 2 name(s)"),
        ("\ufeffuser,item\n", {}, "user,item", "header: true, if the line names the columns (user, item)"),
        ('"a,b",c\n', {}, '"a,b",c', "header: true, if the line names the columns (a,b, c)"),
    ],
)  # fmt: skip
def test_the_first_line_and_the_likelier_fix_are_shown(
    tmp_path: Path, text: str, source: dict[str, Any], line: str, first: str
) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    error = refused(tmp_path, path="a.csv", **source)
    assert error.got == f"the first line {line!r} of {tmp_path / 'a.csv'}"
    assert error.fixes[0].startswith(first)
    assert error.where == "config: data.source"


def test_the_first_file_of_a_pattern_or_folder_is_opened(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "b.csv.gz", "wt") as file:
        file.write("y,b\n")
    (tmp_path / "_SUCCESS").touch()
    for source in ({"path": "*.csv.gz"}, {"path": ".", "format": "csv"}):
        assert "'y,b'" in str(refused(tmp_path, **source).got)


@pytest.mark.parametrize("text", [None, "", "\n"])
def test_a_file_without_a_line_leaves_both_ways(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "a.csv").write_text(text)
    error = refused(tmp_path, path="a.csv")
    assert error.got is None
    assert [fix.split(":")[0] for fix in error.fixes] == ["header", "columns"]


def test_a_file_that_cannot_be_unpacked_is_no_other_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(b"no gzip")
    assert refused(tmp_path, path="a.csv.gz").got is None
