"""Errors carry all their parts, as text, as JSON and from process to process."""

import pickle
from typing import Any

import pytest

from sharding.errors import PlanError, ShardrecError, UserError

PARTS: dict[str, Any] = {
    "where": "a.yaml: k",
    "got": [1],
    "allowed": ("x", "y"),
    "fixes": ["do this"],
    "also": ["more", "most"],
}


@pytest.mark.parametrize("kind", [ShardrecError, UserError, PlanError])
def test_an_error_survives_pickling_with_all_its_parts(kind: type[ShardrecError]) -> None:
    error = kind("wrong", **PARTS)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_other_findings_are_lines_of_their_own_and_no_fixes() -> None:
    error = UserError("wrong", fixes=["do this"], also=["more", "most"])
    assert str(error).splitlines() == ["wrong", "  1) do this", "  also:    more", "  also:    most"]
    assert error.as_json() == {
        "error": str(error),
        "where": "",
        "fixes": ["do this"],
        "also": ["more", "most"],
    }


def test_an_error_with_one_finding_has_no_also_in_its_json() -> None:
    assert UserError("wrong").as_json().keys() == {"error", "where", "fixes"}
