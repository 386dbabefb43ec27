"""The harness itself: what it finds on a page, so that no example is left out in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import pages as harness
from tests.docs.pages import Block, blocks, commands

PAGE = """# Title
```python
print(1)
```

<!-- run -->
```sh
shardrec models \\
  --json  # the models
$ echo done
```
<!-- not run: needs a cluster -->
```python
raise SystemExit(1)
```
<!-- not run: needs a file -->
```sh
shardrec prepare config.yaml
```
- item
  ```yaml
  a: 1
  ```
"""


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Block]:
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    return blocks(page)


def test_blocks_are_found_with_their_marks_and_lines(found: list[Block]) -> None:
    assert [(b.language, b.mark, b.line) for b in found] == [
        ("python", "", 3),
        ("sh", "run", 8),
        ("python", "not run: needs a cluster", 14),
        ("sh", "not run: needs a file", 18),
        ("yaml", "", 22),
    ]
    assert found[4].text == "a: 1"
    assert found[0].where == "page.md:3"


def test_python_runs_unless_told_and_shell_only_when_told(found: list[Block]) -> None:
    assert [b.runs for b in found] == [True, True, False, False, False]


def test_commands_join_continued_lines_and_drop_comments_and_prompts(found: list[Block]) -> None:
    assert commands(found[1]) == [["shardrec", "models", "--json"], ["echo", "done"]]


def test_a_block_without_end_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nls\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no end"):
        blocks(page)
