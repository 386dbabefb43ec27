"""What `data.user_rows` may say, alone and beside the rest of the config."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.config import RunConfig
from trainer.config.yaml_text import parse_yaml
from trainer.errors import ConfigError

USER_ROWS = {"by": "user", "order_by": "time", "lists": {"seen": "item"}, "targets": "item"}
BY_USER = {"method": "random", "by": "user"}


def run_of(user_rows: dict[str, Any] | None, **data: Any) -> RunConfig:
    data = {"label": {"column": "liked"}, **data}
    if user_rows is not None:
        data["user_rows"] = {**USER_ROWS, **user_rows}
    features = {"sequence": [{"columns": "seen", "ops": "vocabulary"}]}
    return RunConfig.from_dict(
        {"name": "users", "data": data, "features": features, "model": {"name": "dlrm"}}
    )


def test_rows_of_users_are_part_of_what_a_data_set_is_made_by() -> None:
    run = run_of({"hold_out": {"share": 0.3}}, split=BY_USER)
    assert run.data.user_rows is not None
    assert run.data.user_rows.order_by == ["time"]
    assert RunConfig.from_dict(parse_yaml(run.to_yaml())) == run
    others = [run_of({"hold_out": {"share": 0.4}}, split=BY_USER), run_of(None, split=BY_USER)]
    assert len({each.preparation_hash() for each in (run, *others)}) == 3
    assert "user_rows" not in others[1].preparation()["data"]  # data sets made before keep their hash


@pytest.mark.parametrize(
    ("user_rows", "data", "message"),
    [
        ({"lists": {"item": "item"}}, {}, r"`lists\.item` takes the name of another column"),
        ({"lists": {"targets": "item"}}, {}, r"`lists\.targets` takes the name"),
        ({"user_columns": ["user"]}, {}, "stays by itself"),
        ({"user_columns": ["item"]}, {}, "`item` cannot belong to the user and to an event"),
        ({"max_length": 2, "min_items": 3}, {}, "no row has `min_items` events"),
        ({"splits": ["test", "test"]}, {}, "stands twice"),
        ({"splits": ["train"], "hold_out": {}}, {"split": BY_USER}, "`hold_out` is for valid and test"),
        ({}, {"split": BY_USER}, r"give `user_rows\.hold_out"),
        ({"hold_out": {}}, {}, r"method: random` deals their events(.|\n)*split\.by: user"),
        (
            {"hold_out": {}},
            {"split": {"method": "time", "column": "time"}},
            "method: time` deals their events",
        ),
        ({}, {"label": {"column": "stars", "kind": "rating"}}, r"`data\.label\.positive_at_least` says from"),
        ({}, {"label": None, "labels": {"a": {"column": "a"}}}, "`labels` is for events"),
        ({}, {"weight": "w"}, "`weight` is for events"),
        ({}, {"downsample_negatives": {"keep": 0.5}}, "`downsample_negatives` is for events"),
        (
            {},
            {"negatives": {"user": "user", "item": "item", "in_batch": {"log_q": True}}},
            "`negatives` is for events",
        ),
        (
            {"splits": ["test"]},
            {"negatives": {"user": "user", "item": "item", "evaluation": {"per_positive": 9}}},
            r"no `negatives\.evaluation`",
        ),
    ],
)
def test_what_cannot_be_is_refused(user_rows: dict[str, Any], data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_of(user_rows, **data)


def test_events_in_train_keep_what_belongs_to_events() -> None:
    negatives = {"user": "user", "item": "item", "train": {"per_positive": 2}}
    assert run_of({"splits": ["valid", "test"]}, weight="w", negatives=negatives).data.weight == "w"
    assert run_of({"splits": ["train"]}, split=BY_USER).data.user_rows is not None
