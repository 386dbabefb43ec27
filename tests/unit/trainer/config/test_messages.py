"""Findings of pydantic as one error: real key paths, one fix, the rest beside it."""

from typing import Any

import pytest
from pydantic import Field, PositiveInt, ValidationError

from trainer.config import RunConfig
from trainer.config.base import Section
from trainer.config.messages import config_error
from trainer.errors import ConfigError


class Inner(Section):
    row_width: int = 1


class Outer(Section):
    by_name: dict[str, Inner] = Field(default_factory=dict)
    either: Inner | str | None = None
    sizes: PositiveInt | list[PositiveInt] = 1
    many: list[Inner] = Field(default_factory=list)


def error_of(raw: dict[str, Any], section: str = "") -> ConfigError:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(raw)
    return config_error(caught.value, Outer, "a.yaml", section)


@pytest.mark.parametrize("name", ["C[12]", "str", "list[str]", "int"])
def test_a_key_that_looks_like_a_type_stays_in_the_path(name: str) -> None:
    error = error_of({"by_name": {name: {"row_widht": 4}}})
    assert error.where == f"a.yaml: by_name.{name}.row_widht"
    assert error.allowed == ["row_width"]
    assert error.fixes == ("did you mean `row_width`?",)


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ({"sizes": [4, 0]}, "sizes.1"),
        ({"sizes": [4, "x"]}, "sizes.1"),
        ({"sizes": 0}, "sizes"),
        ({"either": {"row_width": "x"}}, "either.row_width"),
        ({"many": [{}, {"row_width": 0.5}]}, "many.1.row_width"),
        ({"by_name": {1: {}}}, "by_name.1"),
    ],
)
def test_the_path_holds_keys_and_no_branches_of_a_union(raw: dict[str, Any], key: str) -> None:
    error = error_of(raw, "model")
    assert error.where == f"a.yaml: model.{key}"
    assert "[" not in " ".join(error.also)


def test_a_key_inside_a_union_knows_the_allowed_keys() -> None:
    assert error_of({"either": {"row_widht": 1}}).allowed == ["row_width"]


def test_the_other_findings_stand_beside_the_fixes() -> None:
    error = error_of({"row_widht": 1, "sizes": 0, "many": [{"row_widht": 1}]})
    assert error.fixes == ()
    assert error.as_json()["fixes"] == []
    assert len(error.also) == 2
    assert "unknown key (`many.0.row_widht`): did you mean `row_width`?" in error.also
    assert "1)" not in str(error)


def test_no_more_than_eight_findings_are_told_and_the_others_counted() -> None:
    error = error_of({"by_name": {str(number): {"x": 1} for number in range(20)}})
    assert len(error.also) == 8
    assert error.also[-1] == "12 more"


def test_a_table_with_a_bracket_in_its_name_keeps_it() -> None:
    raw = {"name": "x", "data": {"label": {"column": "y"}}, "features": {}, "model": {"name": "dlrm"}}
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict({**raw, "tables": {"C[12]": {"embeding_dim": 4}}})
    assert caught.value.where == "config: tables.C[12].embeding_dim"
    assert caught.value.fixes == ("did you mean `embedding_dim`?",)
