"""Reads an HTML page back as a browser would: a tree of elements, checked to be well nested."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "br", "hr", "img", "input", "path", "use", "rect", "stop"}


class Node:
    """An element of a parsed page."""

    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Node | str] = []

    def all(self, tag: str) -> list[Node]:
        """Return the elements of a tag below this one, in order."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                found += ([child] if child.tag == tag else []) + child.all(tag)
        return found

    @property
    def text(self) -> str:
        """Return all text below this element, white space folded."""
        return " ".join("".join(c if isinstance(c, str) else f" {c.text} " for c in self.children).split())


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Node("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop().tag == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(path: Path) -> Node:
    parser = _Parser()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    assert parser.open == [parser.root], "an element is not closed"
    return parser.root


def section(page: Node, anchor: str) -> Node | None:
    return next((node for node in page.all("section") if node.attributes.get("id") == anchor), None)


def table(node: Node, caption: str) -> list[list[str]]:
    """Return the cells of the table with this caption, the titles first."""
    found = next(t for t in node.all("table") if t.all("caption")[0].text == caption)
    return [[c.text for c in row.children if isinstance(c, Node)] for row in found.all("tr")]


def tile_values(page: Node) -> dict[str, str]:
    tiles = next(node for node in page.all("dl") if node.attributes.get("class") == "tiles")
    return {tile.all("dt")[0].text: tile.all("dd")[0].text for tile in tiles.all("div")}
