"""Sections of features that are made of several rows."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.config import RunConfig
from trainer.errors import ConfigError

EARLIER = {"by": "user", "time": "t", "what": "rate"}


def run(**group: Any) -> RunConfig:
    return RunConfig.from_dict(
        {
            "name": "small",
            "data": {"label": {"column": "y"}},
            "features": {"dense": [group]},
            "model": {"name": "dlrm"},
        }
    )


def test_one_column_may_stand_for_a_list_of_them() -> None:
    earlier = run(name="rate", earlier=EARLIER).features.dense[0].earlier
    encoding = run(name="rate", target_encoding={"by": "item"}).features.dense[0].target_encoding
    assert earlier is not None
    assert encoding is not None
    assert (earlier.by, encoding.by) == (["user"], ["item"])


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"earlier": EARLIER}, "an `earlier` needs a `name`"),
        ({"name": "x", "earlier": EARLIER, "columns": "x"}, "exactly one of `columns`"),
        ({"name": "x"}, "exactly one of `columns`"),
        ({"name": "x", "earlier": {**EARLIER, "what": "mean"}}, "`of` names the column of `what: mean`"),
        ({"name": "x", "earlier": {**EARLIER, "of": "price"}}, "`of` names the column of `what: mean`"),
        ({"name": "x", "earlier": {**EARLIER, "what": "count", "smoothing": 1.0}}, "not for `count`"),
        ({"name": "x", "earlier": {**EARLIER, "prior": 0.5}}, "does nothing without `smoothing`"),
        ({"name": "x", "earlier": {**EARLIER, "window_seconds": 0.0}}, "window_seconds"),
        ({"name": "x", "earlier": {**EARLIER, "by": []}}, "earlier.by"),
        ({"name": "x", "target_encoding": {"by": "item", "folds": 1}}, "target_encoding.folds"),
    ],
)
def test_sections_that_make_no_sense_are_refused(group: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        run(**group)
    assert words in str(error.value)
