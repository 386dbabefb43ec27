"""Errors carry all their parts, as text, as JSON and from process to process."""

import json
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
        "error": "wrong",
        "kind": "UserError",
        "where": "",
        "fixes": ["do this"],
        "also": ["more", "most"],
    }


def test_parts_that_are_absent_have_no_key_in_the_json() -> None:
    assert UserError("wrong").as_json().keys() == {"error", "kind", "where", "fixes"}
    whole = PlanError("wrong\n  largest: a", got=0, allowed=["x", "y"]).as_json()
    assert (whole["error"], whole["details"]) == ("wrong", "  largest: a")
    assert (whole["kind"], whole["got"], whole["allowed"]) == ("PlanError", 0, ["x", "y"])


@pytest.mark.parametrize("got", [float("inf"), float("nan")])
def test_a_number_that_json_does_not_have_is_text_there(got: float) -> None:
    assert json.loads(json.dumps(PlanError("wrong", got=got).as_json(), allow_nan=False))["got"] == str(got)
