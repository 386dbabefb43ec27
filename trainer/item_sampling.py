"""Items that are taken for negatives, drawn while training.

What is drawn follows the seed of the step, the number of the row and the place in it, by a hash: it is the
same at every world size, and after a run was taken up again.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sharding.hashing import hashed_seed, signed64, splitmix64_, unit_interval
from trainer.config.base import Section

_DRAW_STEP = 0x9FB21C651E98DF25  # Odd constants: streams of draws never share a key.
_TRY_STEP = 0xD6E8FEB86659FD93
_TRIES = 8


class ItemNegatives(Section):
    """Where the items come from that a query's own is told from, besides rows with label 0."""

    per_query: int = Field(default=0, ge=0)
    """Drawn for each query; never an item that the query's row holds."""
    shared: int = Field(default=0, ge=0)
    """Drawn once a step, for all queries of the global batch."""
    in_batch: bool = False
    """The other queries' items, over all ranks; those equal to a query's own do not count for it."""
    distribution: Literal["uniform", "popularity"] = "uniform"
    """Of `per_query` and `shared`; `popularity`: by an item's count in the training rows, to the power of
    `alpha`."""
    alpha: float = Field(default=0.75, gt=0)
    """Power of the popularity."""
    hard: int | None = Field(default=None, ge=1)
    """Only so many count, those that the model at present scores highest."""
    exclude_seen_by: str | None = None
    """Feature with the id of a row's user, where rows are events: none that the user met in any training row
    is drawn for `per_query`. Takes 3 bytes a training row on every rank."""
    seen_memory_mib: int = Field(default=1024, ge=1)
    """Most that `exclude_seen_by` may take on a rank."""
    log_q: bool = False
    """Take from each score the logarithm of how often its item is expected among what a query is scored
    against: popular ones are not held down for being there often. For `sampled_softmax`."""

    @property
    def some(self) -> bool:
        """Return whether there are any."""
        return bool(self.per_query or self.shared or self.in_batch)

    @property
    def needs_counts(self) -> bool:
        """Return whether the items' counts in the training rows are needed."""
        return self.distribution == "popularity" or (self.log_q and self.in_batch)

    @model_validator(mode="after")
    def _something_drawn(self) -> ItemNegatives:
        if self.distribution == "popularity" and not (self.per_query or self.shared):
            raise ValueError("`distribution: popularity` needs `per_query` or `shared` items to draw")
        if self.exclude_seen_by is not None and not self.per_query:
            raise ValueError("`exclude_seen_by` is for items drawn for each query: give `per_query`")
        return self


class Seen(Protocol):
    """Knows pairs of user and item."""

    def holds(self, users: Tensor, items: Tensor) -> Tensor:
        """Return which pairs it knows, bool of the shape of `items`, to which that of `users` broadcasts."""
        ...


class ItemSampler(nn.Module):
    """Draws items of a table.

    Args:
        first: first row that is an item; those before are padding and unknown items.
        num_embeddings: rows of the table.
        config: what to draw.

    Attributes:
        popularity_N: counts of the N items in the training rows, given by `set_counts`.
        targets_N: how often each is to be found there, likewise.
        seen: what users met in the training rows, given where `exclude_seen_by` asks for it.
    """

    popularity_N: Tensor | None
    targets_N: Tensor | None

    def __init__(self, first: int, num_embeddings: int, config: ItemNegatives) -> None:
        super().__init__()
        self.first, self.num_items = first, num_embeddings - first
        self.config = config
        self.seen: Seen | None = None
        # No weight, and the same for every checkpoint of a run: it comes from the data set.
        self.register_buffer("popularity_N", None, persistent=False)
        self.register_buffer("targets_N", None, persistent=False)
        self.register_buffer("_cumulative_N", None, persistent=False)

    def set_counts(self, counts_N: Tensor, targets_N: Tensor | None = None) -> None:
        """Take the counts of the items in the training rows; one that is in none counts as once.

        Args:
            counts_N: [N], from the first item on.
            targets_N: [N], rows of which the item is to be found; default all of them.
        """
        self.popularity_N = counts_N.double().clamp(min=1)
        self.targets_N = self.popularity_N if targets_N is None else targets_N.double().clamp(min=1)
        weights_N = self.popularity_N**self.config.alpha
        self._cumulative_N = torch.cumsum(weights_N / weights_N.sum(), dim=0)

    def expected_log_count(self, ids: Tensor, queries: int) -> Tensor:
        """Return the logarithm of how often each item is expected among what a query is scored against.

        Args:
            ids: items, any shape.
            queries: in the global batch.

        Source: Yi et al. 2019, Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations,
        section 3; the mixture is that of Yang et al. 2020, Mixed Negative Sampling for Learning Two-tower
        Neural Networks in Recommendations, equation 5.
        """
        config, place = self.config, (ids - self.first).clamp(min=0)
        drawn = config.per_query + config.shared
        if config.distribution == "uniform":
            expected = torch.full(ids.shape, drawn / self.num_items, dtype=torch.float64, device=ids.device)
        else:
            weights_N = _given(self.popularity_N) ** config.alpha
            expected = drawn * (weights_N / weights_N.sum())[place]
        if config.in_batch:
            targets_N = _given(self.targets_N)
            expected = expected + queries * (targets_N / targets_N.sum())[place]
        return expected.clamp(min=torch.finfo(torch.float64).tiny).log().float()

    @torch.no_grad()
    def shared(self, device: torch.device) -> Tensor:
        """Return the items of this step that every query is scored against, [C]; the same on all ranks."""
        keys_C = torch.arange(self.config.shared, device=device)
        return self._items(keys_C, stream=1)

    @torch.no_grad()
    def per_query(
        self,
        rows_Q: Tensor,
        place_Q: Tensor,
        held_H: Tensor,
        holder_H: Tensor,
        users_Q: Tensor | None = None,
    ) -> Tensor:
        """Return items that each query's row does not hold, and its user did not meet.

        Args:
            rows_Q: numbers of the queries' rows in their split.
            place_Q: places of the queries in their rows.
            held_H: ids that rows hold.
            holder_H: numbers of the rows that hold them.
            users_Q: ids of the users, where `seen` knows what they met.

        Returns:
            [Q, `per_query`]; 0 where chance found none.
        """
        count = self.config.per_query
        row_Q = splitmix64_(rows_Q.clone())
        key_Q1 = splitmix64_(row_Q + place_Q).unsqueeze(1)
        keys_QC = key_Q1 + torch.arange(count, device=rows_Q.device)
        # Rows that hold an item, as one number: a pair of row and item.
        held_H = torch.sort(held_H + (splitmix64_(holder_H.clone()) << 1)).values
        wrong_M = torch.arange(keys_QC.numel(), device=rows_Q.device)
        keys_N, found_N = keys_QC.reshape(-1), keys_QC.new_zeros(keys_QC.numel())
        for attempt in range(_TRIES):
            query_M = wrong_M // count
            found_M = self._items(keys_N[wrong_M] + signed64(attempt * _TRY_STEP), stream=2)
            refused_M = among(found_M + (row_Q[query_M] << 1), held_H)
            if self.seen is not None and users_Q is not None:
                refused_M |= self.seen.holds(users_Q[query_M], found_M)
            found_N[wrong_M] = found_M.masked_fill(refused_M, 0)
            wrong_M = wrong_M[refused_M]
            if not len(wrong_M):
                break
        return found_N.reshape(keys_QC.shape)

    def _items(self, keys: Tensor, stream: int) -> Tensor:
        """Return items drawn by the hash of keys; the keys are overwritten."""
        uniform = unit_interval(splitmix64_(keys.add_(hashed_seed(keys.device, stream * _DRAW_STEP))))
        if self.config.distribution == "popularity":
            place = torch.searchsorted(_given(self._cumulative_N), uniform, right=True)
        else:
            place = (uniform * self.num_items).long()
        return place.clamp(max=self.num_items - 1) + self.first


def _given(counts_N: Tensor | None) -> Tensor:
    assert counts_N is not None, "set_counts comes first"
    return counts_N


def among(values_N: Tensor, sorted_H: Tensor) -> Tensor:
    """Return which values, of any shape, are among others that rise; bool of that shape."""
    if not len(sorted_H):
        return torch.zeros_like(values_N, dtype=torch.bool)
    place_N = torch.searchsorted(sorted_H, values_N).clamp_(max=len(sorted_H) - 1)
    return sorted_H[place_N] == values_N
