"""Which registry the versions of a model go to."""

from __future__ import annotations

import pytest

from jobs.tracking import registry_of


@pytest.mark.parametrize(
    ("name", "tracking", "registry"),
    [
        ("main.recommender.movies", "databricks", "databricks-uc"),
        ("main.recommender.movies", "databricks://staging", "databricks-uc://staging"),
        ("movies", "databricks", None),
        ("main.recommender.movies", "http://server:5000", None),
    ],
)
def test_names_of_unity_catalog_go_to_its_registry_by_the_same_profile(
    name: str, tracking: str, registry: str | None
) -> None:
    assert registry_of(name, tracking) == registry
