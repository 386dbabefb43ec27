"""Which items users met in training, as lists of item numbers; never a matrix of users and items."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Histories:
    """Distinct items of each of U users, in rising order.

    Attributes:
        begins_U1: where the items of each user begin, and the end of the last one's.
        items_H: item numbers from 0.
        values_H: what is known of each: 1, or the mean of the user's ratings of it.
        num_items: N.
    """

    begins_U1: Ints
    items_H: Ints
    values_H: Floats
    num_items: int

    @property
    def num_users(self) -> int:
        """Return U."""
        return len(self.begins_U1) - 1

    def users(self) -> Ints:
        """Return the user of each item, [H]."""
        return np.repeat(np.arange(self.num_users), np.diff(self.begins_U1))

    def counts(self) -> Ints:
        """Return the users of each item, [N]."""
        return np.bincount(self.items_H, minlength=self.num_items)

    def of(self, users_B: Ints) -> Histories:
        """Return the histories of some users; a number below 0 or beyond the last has none."""
        known_B = (users_B >= 0) & (users_B < self.num_users)
        place_B = np.where(known_B, users_B, 0)
        length_B = np.where(known_B, np.diff(self.begins_U1)[place_B] if self.num_users else 0, 0)
        entry_H = ranges(self.begins_U1[place_B], length_B)
        begins_B1 = np.concatenate([[0], np.cumsum(length_B)])
        return Histories(begins_B1, self.items_H[entry_H], self.values_H[entry_H], self.num_items)

    def by_item(self) -> tuple[Ints, Ints]:
        """Return where the users of each item begin, [N + 1], and those of one item after another."""
        begins_N1 = np.concatenate([[0], np.cumsum(self.counts())])
        return begins_N1, self.users()[np.argsort(self.items_H, kind="stable")]


def histories_of(
    parts: Iterable[tuple[Ints, Ints, Floats]], num_users: int | None, num_items: int
) -> Histories:
    """Put pairs of users and items together, each pair once.

    Args:
        parts: users, items and values; those of users or items below 0 are left out.
        num_users: U; None for the largest user.
        num_items: N.
    """
    keys, values = [np.zeros(0, np.int64)], [np.zeros(0)]
    for users_H, items_H, values_H in parts:
        known_H = (users_H >= 0) & (items_H >= 0)
        keys.append(users_H[known_H] * num_items + items_H[known_H])
        values.append(values_H[known_H])
    key_H = np.concatenate(keys)
    pair_P, place_H, number_P = np.unique(key_H, return_inverse=True, return_counts=True)
    total_P = np.bincount(place_H, weights=np.concatenate(values), minlength=len(pair_P))
    users_P = pair_P // num_items
    users = (int(users_P.max(initial=-1)) + 1) if num_users is None else num_users
    begins_U1 = np.searchsorted(users_P, np.arange(users + 1))
    return Histories(begins_U1, pair_P % num_items, total_P / number_P, num_items)


def ranges(begins_B: Ints, lengths_B: Ints) -> Ints:
    """Return the numbers from each begin on, so many of them, one range after another."""
    first_B = np.cumsum(lengths_B) - lengths_B
    numbers: Ints = np.repeat(begins_B - first_B, lengths_B) + np.arange(int(lengths_B.sum()))
    return numbers
