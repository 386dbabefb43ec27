"""What can be set of baselines, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.baselines.sections import AlsSection, ItemKnnSection, baseline_section
from trainer.errors import ConfigError


def test_options_may_be_text() -> None:
    section = baseline_section("item_knn", {"neighbours": "20", "shrinkage": "1.5"})
    assert section == ItemKnnSection(neighbours=20, shrinkage=1.5)
    assert baseline_section("als", {"rank": 8}) == AlsSection(rank=8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("popular", {}, "no such baseline(.|\n)*popularity"),
        ("item_knn", {"neighbors": 5}, r"no such option(.|\n)*neighbours"),
        ("popularity", {"neighbours": 5}, "it has no options"),
        ("item_knn", {"neighbours": "0"}, "--option neighbours(.|\n)*0"),
        ("als", {"alpha": "much"}, "--option alpha(.|\n)*much"),
    ],
)
def test_what_is_not_there_or_out_of_range_is_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        baseline_section(name, options)
