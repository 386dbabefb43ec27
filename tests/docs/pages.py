"""The code blocks of README, CONTRIBUTING and the documentation pages.

An HTML comment right above a block says how the tests treat it:

    <!-- run -->                    a shell block that is executed (otherwise its commands are only parsed)
    <!-- run: slow -->              the same, in the slow lane, with the page's other blocks; also for Python
    <!-- not run: REASON -->        a block that cannot run in a test; its commands are still parsed
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHELL = {"sh", "bash", "shell", "console"}
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*$")
_COMMENT = re.compile(r"^ *<!-- (?P<text>run|run: slow|not run: .+) -->$")


@dataclass(frozen=True)
class Block:
    """One fenced code block; `line` is that of its first code line, from 1."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        if self.language == "python":
            return not self.mark.startswith("not run")
        return self.language in SHELL and self.mark.startswith("run")


def pages() -> list[Path]:
    """Return every page that is written for readers."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def in_reading_order() -> list[Path]:
    """Return README and the documentation pages as a reader meets them: by the navigation of the site."""
    links = re.findall(
        r"^ +- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE
    )
    return [ROOT / "README.md", *(ROOT / "docs" / link for link in links)]


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page in order."""
    return list(_blocks(page, page.read_text(encoding="utf-8").splitlines()))


def _blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    start, opening, mark = 0, None, ""
    for number, line in enumerate(lines, start=1):
        fence = _FENCE.match(line)
        if opening is None and fence:
            start, opening = number + 1, fence
            comment = _COMMENT.match(lines[number - 2]) if number > 1 else None
            mark = comment["text"] if comment else ""
        elif opening is not None and fence and not fence["language"]:
            indent = len(opening["indent"])
            text = "\n".join(code[indent:] for code in lines[start - 1 : number - 1])
            yield Block(page, start, opening["language"], mark, text)
            opening = None
    if opening is not None:
        raise ValueError(f"{page.name}:{start}: the code block has no end")


def commands(block: Block) -> list[list[str]]:
    """Return a shell block's commands as words: continued lines joined, comments and prompts dropped."""
    joined = re.sub(r"\\\n\s*", " ", block.text)
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in joined.splitlines()]
    return [line for line in words if line]
