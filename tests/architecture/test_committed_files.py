"""What must not stand in a file that git tracks."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.architecture.source import ROOT, committed_texts

# Written with classes so that this file does not match itself.
REGISTRIES = re.compile(
    r"(?:py[p]i\.|python[h]osted\.|npm[j]s\.|download\.py[t]orch\.|deb\.[d]ebian\.)(?:org|com)"
)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    return committed_texts()


def test_no_file_names_a_package_registry(texts: dict[str, str]) -> None:
    assert {name: REGISTRIES.findall(text) for name, text in texts.items() if REGISTRIES.search(text)} == {}


def test_no_file_holds_a_path_of_this_machine(texts: dict[str, str]) -> None:
    places = [str(ROOT), str(ROOT.parent / "shared")]
    places += [place for place in os.environ.get("PIP_FIND_LINKS", "").split() if place.startswith("/")]
    own_folder = rf"/home/[a-z]\w*/|/Users/[A-Za-z]\w*/|{re.escape(str(Path.home()))}/"
    pattern = re.compile("|".join([own_folder, *(re.escape(place) + r"\b" for place in places)]))
    assert {name: pattern.findall(text) for name, text in texts.items() if pattern.search(text)} == {}


def test_constraints_hold_versions_only(texts: dict[str, str]) -> None:
    line = re.compile(r"[a-z0-9-]+==[a-z0-9.+!]+( ; .+)?")
    for name in ("constraints.txt", "constraints-newest.txt"):
        pins = [text for text in texts[name].splitlines() if not text.startswith("#")]
        assert len(pins) > 50
        assert [pin for pin in pins if not line.fullmatch(pin)] == []
