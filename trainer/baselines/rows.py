"""The rows of a split as a baseline sees them: users, items and labels."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from sharding.hosts import RankContext
from trainer.assembly import open_split, read_policy
from trainer.baselines.histories import Floats, Histories, Ints, histories_of
from trainer.baselines.roles import Roles
from trainer.batch import Batch
from trainer.config import RunConfig
from trainer.data.kept import KeptColumns
from trainer.inputs import known_from
from trainer.modules.sequence_pooling import segment_rows
from trainer.schema import Manifest
from trainer.storage import Place

# Scores of rows and items that are held at once.
_SCORES_AT_ONCE = 1 << 23
_ROWS_AT_ONCE = 8_192


class BaselineRows:
    """Reads splits of a data set in one process.

    Args:
        run: the config.
        manifest: of the data set.
        dataset: its folder.
        roles: who is who.

    Raises:
        DataError: the user is neither a feature nor a kept column.
        StoreError: the store cannot be read.
    """

    def __init__(self, run: RunConfig, manifest: Manifest, dataset: Place, roles: Roles) -> None:
        self._manifest, self._dataset, self.roles = manifest, dataset, roles
        lanes = run.data.num_lanes
        rows = min(_ROWS_AT_ONCE, _SCORES_AT_ONCE // max(1, roles.num_items))
        train = run.train.model_copy(update={"global_batch_size": max(1, rows // lanes) * lanes})
        self._run = run.model_copy(update={"train": train})
        self._users: pa.Array | None = None
        if roles.user is not None and not roles.user_is_feature:
            self._kept("train", roles.user)

    def batches(self, split: str) -> Iterator[Batch]:
        """Yield the rows of a split in order, the last batch padded.

        Raises:
            DataError: the split is empty, or a part file is missing or damaged.
            StoreError: the store cannot be read.
        """
        context = RankContext(0, 1, 0, 1, socket.gethostname(), torch.device("cpu"))
        reader = open_split(self._run, self._manifest, self._dataset, split, context, training=False)
        return iter(reader.batches(0))

    def num_rows(self, split: str) -> int:
        """Return the rows of a split."""
        return self._manifest.split(split).rows

    def histories(self, *, ratings: bool = False) -> Histories:
        """Return what each user met in the training rows: positives, or every item with a rating.

        Of rows of users the user is the number of the row. Memory: 16 bytes for each pair of both.

        Args:
            ratings: whether the values are the ratings, and not 1.

        Raises:
            DataError: a part file is missing or damaged.
            StoreError: the store cannot be read.
        """
        roles = self.roles
        if roles.events is None:
            rows = self._manifest.split("train").rows
            return histories_of(map(self._of_lists, self.batches("train")), rows, roles.num_items)
        codes = self._codes("train")
        parts = (self._of_events(batch, codes, ratings) for batch in self.batches("train"))
        return histories_of(parts, None, roles.num_items)

    def of_lists(self, batch: Batch) -> Histories:
        """Return the items that each row of a batch lists."""
        users_H, items_H, values_H = self._of_lists(batch, by_place=True)
        return histories_of([(users_H, items_H, values_H)], batch.size, self.roles.num_items)

    def users(self, split: str) -> UserNumbers:
        """Return who the users of a split's events are, by the numbers that `histories` gives them."""
        return self._codes(split)

    def items_of(self, batch: Batch) -> Ints:
        """Return the item of each event, from 0; below 0 where it is not known."""
        assert self.roles.events is not None
        return _numbers(batch.sparse[self.roles.events].values()) - self.roles.first

    def _of_lists(self, batch: Batch, *, by_place: bool = False) -> tuple[Ints, Ints, Floats]:
        rows_B = np.arange(batch.size) if by_place else _numbers(batch.rows_B)
        users, items = [], []
        for name in self.roles.lists:
            ids = batch.sparse[name]
            users.append(rows_B[_numbers(segment_rows(ids))])
            items.append(_numbers(ids.values()) - self.roles.first)
        item_H = np.concatenate(items)
        return np.concatenate(users), item_H, np.ones(len(item_H))

    def _of_events(self, batch: Batch, users: UserNumbers, ratings: bool) -> tuple[Ints, Ints, Floats]:
        label_B = batch.labels_BT[:, 0].double().numpy()
        counted_B = (batch.weights_B.numpy() > 0) & ~np.isnan(label_B)
        if not self._manifest.spec.tasks[0].is_rating:
            counted_B &= label_B > 0.5
        values_B = label_B if ratings else np.ones(batch.size)
        return (users.of(batch)[counted_B], self.items_of(batch)[counted_B], values_B[counted_B])

    def _codes(self, split: str) -> UserNumbers:
        roles = self.roles
        assert roles.user is not None
        if roles.user_is_feature:
            feature = next(f for f in self._manifest.spec.features if f.name == roles.user)
            return UserNumbers(feature=feature.name, first=known_from(feature))
        values = self._kept_values(split, roles.user)
        if split == "train" or self._users is None:
            trained = values if split == "train" else self._kept_values("train", roles.user)
            self._users = trained.unique().drop_null()
        return UserNumbers(users_N=_places(values, self._users))

    def _kept(self, split: str, column: str) -> KeptColumns:
        kept = KeptColumns(self._dataset, self._manifest, split, read_policy(self._run))
        kept.require(column, "user")
        return kept

    def _kept_values(self, split: str, column: str) -> pa.ChunkedArray:
        kept = self._kept(split, column)
        values = pa.chunked_array(list(kept.read(column, range(len(kept.starts) - 1))))
        # A number that is none stands for nobody, as null does.
        return pc.if_else(pc.is_nan(values), None, values) if pa.types.is_floating(values.type) else values


class UserNumbers:
    """Numbers of the users of events, below 0 for those who are not known.

    Args:
        feature: whose ids from `first` on are the users; None where `users_N` says who they are.
        first: first id of a known user.
        users_N: user of each row of the split.
    """

    def __init__(self, *, feature: str | None = None, first: int = 0, users_N: Ints | None = None) -> None:
        self._feature, self._first, self._users_N = feature, first, users_N

    def of(self, batch: Batch) -> Ints:
        """Return the user of each row of a batch."""
        rows_B = _numbers(batch.rows_B)
        if self._feature is not None:
            return np.where(rows_B < 0, -1, _numbers(batch.sparse[self._feature].values()) - self._first)
        assert self._users_N is not None
        return np.where(rows_B < 0, -1, self._users_N[np.maximum(rows_B, 0)])


def _places(values_N: pa.ChunkedArray, users_U: pa.Array) -> Ints:
    """Return the place of each value among the users, -1 for null and for those who are not there.

    In arrow throughout: integers beside a null would become float64, in which ids beyond 2^53 are one.
    """
    place_N = pc.fill_null(pc.index_in(values_N, value_set=users_U), -1)
    return np.asarray(place_N.to_numpy(), np.int64)


def _numbers(ids: torch.Tensor) -> Ints:
    return ids.cpu().numpy().astype(np.int64)
