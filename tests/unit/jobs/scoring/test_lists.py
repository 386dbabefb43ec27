"""Ranking rows into lists."""

import datetime
import decimal
import json

import numpy as np

from jobs.scoring.lists import RankedItem, Recommendations, UserList, top_k


def test_top_k_orders_by_score_and_breaks_ties_by_row() -> None:
    users = np.array(["b", "a", "b", "b", "a", "b"])
    scores = np.array([0.2, 0.1, 0.9, 0.9, 0.5, 0.3])
    found = top_k(users, scores, 3)
    assert {user: rows.tolist() for user, rows in found.items()} == {"a": [4, 1], "b": [2, 3, 5]}


def test_top_k_agrees_with_a_sort_per_user() -> None:
    generator = np.random.default_rng(0)
    users, scores = generator.integers(0, 50, 2000), generator.random(2000)
    found = top_k(users, scores, 7)
    for user in np.unique(users):
        rows = np.flatnonzero(users == user)
        assert found[user].tolist() == rows[np.argsort(-scores[rows], kind="stable")][:7].tolist()


def test_lists_show_titles_and_keep_every_place() -> None:
    items = [RankedItem(1, 10, "Heat", "Crime", 0.9), RankedItem(2, 11, "Se7en", "", 0.8)]
    lists = Recommendations("user_id", "movie_id", [UserList(7, ["Fargo"], items)])
    assert "  1. Heat   0.900  Crime" in lists.text()
    assert "liked before: Fargo" in lists.text()
    assert lists.frame()[["user_id", "movie_id", "rank"]].values.tolist() == [[7, 10, 1], [7, 11, 2]]
    assert lists.as_json()["users"][0]["items"][1]["title"] == "Se7en"


def test_ids_that_json_does_not_have_are_text_there() -> None:
    items = [RankedItem(1, decimal.Decimal("1.50"), "Heat", "", 0.9), RankedItem(2, 7, "Se7en", "", 0.8)]
    lists = Recommendations("day", "price", [UserList(datetime.date(2026, 1, 31), [], items)])
    (entry,) = json.loads(json.dumps(lists.as_json()))["users"]
    assert entry["user"] == "2026-01-31"
    assert [item["item"] for item in entry["items"]] == ["1.50", 7]
