"""Who met what, put together from parts."""

from __future__ import annotations

import numpy as np

from trainer.baselines.histories import histories_of, ranges


def test_pairs_of_several_parts_count_once_and_ratings_by_their_mean() -> None:
    parts = [
        (np.array([2, 0, -1, 2]), np.array([1, 3, 1, 1]), np.array([4.0, 5, 9, 2])),
        (np.array([0, 2]), np.array([0, -1]), np.array([1.0, 9])),
    ]
    found = histories_of(parts, None, 4)
    assert found.begins_U1.tolist() == [0, 2, 2, 3]
    assert found.items_H.tolist() == [0, 3, 1]
    assert found.values_H.tolist() == [1, 5, 3]
    assert found.counts().tolist() == [1, 1, 0, 1]
    assert found.users().tolist() == [0, 0, 2]
    begins, users = found.by_item()
    assert (begins.tolist(), users.tolist()) == ([0, 1, 2, 2, 3], [0, 2, 0])


def test_unknown_users_have_no_history() -> None:
    found = histories_of([(np.array([0, 1]), np.array([1, 0]), np.ones(2))], 2, 2)
    some = found.of(np.array([1, -1, 0, 7]))
    assert some.begins_U1.tolist() == [0, 1, 1, 2, 2]
    assert some.items_H.tolist() == [0, 1]
    assert histories_of([], 0, 2).of(np.array([0])).begins_U1.tolist() == [0, 0]


def test_ranges_follow_one_another() -> None:
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
