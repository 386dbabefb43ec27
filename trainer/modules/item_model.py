"""Models that score a query against items: which items, with what loss, and what a subclass has to say.

A row of a batch gives one query or several, each with one item to be found (its target). Targets, negatives
and, for a softmax over all of them, every item are further features of the items' table: one lookup serves
all, the table is sharded and planned like any other, and no rank ever holds all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from trainer.batch import Batch
from trainer.config import LossConfig
from trainer.errors import DataError
from trainer.item_sampling import ItemSampler
from trainer.losses.ranking import (
    bpr_loss,
    hardest,
    pointwise_loss,
    sampled_softmax_loss,
    smoothed,
)
from trainer.modules.item_section import ItemFeatures, ItemModelSection
from trainer.modules.lookup import Found, Lookup
from trainer.modules.over_ranks import gathered, largest, summed, world
from trainer.modules.row_dropout import row_numbers
from trainer.modules.sequence_pooling import segment_rows
from trainer.registry import ModelInputs

_PAIRWISE = {"bpr": bpr_loss, "pointwise": pointwise_loss, "sampled_softmax": sampled_softmax_loss}


@dataclass(frozen=True)
class Examples:
    """What a batch is to teach: B rows with Q queries in all.

    Attributes:
        targets: ids of the items to be found, one for each query.
        inputs: ids by feature that are looked up in place of the batch's.
        extra: what else the model's `queries` need to know.
        penalties: further losses of rows, [B] each, which `queries` add.
    """

    targets: JaggedTensor
    inputs: Mapping[str, JaggedTensor] = field(default_factory=dict)
    extra: Any = None
    penalties: list[Tensor] = field(default_factory=list)


class ItemModel(nn.Module):
    """What models have in common that score queries against items; a subclass gives `queries`.

    In training its output is the loss, a scalar; but under `objective: pointwise` without negatives, and in
    evaluation always, it is the score of each row's own item.

    Args:
        inputs: features and tables, completed by the config.
        config: the model's config section.

    Attributes:
        item_feature: the feature that names the items' table.
        item_features: names of those that the model adds.
        item_dim: columns of the items' table.
        holders: features of the data set whose ids are items.
        seen_by: feature of the users whose items in all training rows are no negatives of theirs, if any.
        first_user: first id of it that stands for one user.
        has_own_loss: whether it is trained by its own loss, and not by that of each row's label.
        loss: forms of its own loss, as far as its objective has them; given by the `TrainingTask`.
        parts_left: forward passes of a step that are to come, where it has several.
        row_queries_only: whether a row has one query, that all its targets share. Its loss is then their sum,
            and the batch's the mean over rows; else it is the mean over queries.
        lookup: the tables.
    """

    row_queries_only = False

    def __init__(self, inputs: ModelInputs, config: ItemModelSection) -> None:
        super().__init__()
        self.item_feature = config.item_feature(inputs)
        table, ids = config.item_table(inputs), inputs.table_of(self.item_feature)
        self.item_dim = table.embedding_dim
        self.item_features = ItemFeatures.of(table.name)
        self.rows_have_item = self.item_feature not in inputs.lists
        self.holders = [name for name in ids.features if name in inputs.features]
        self._keys, self._settings = inputs.features, config
        self.has_own_loss = config.own_loss
        self.loss = LossConfig()
        self._whole: tuple[Tensor, Tensor] | None = None  # Queries and weight of the batch that parts are of.
        self.parts_left = 0
        self.lookup = Lookup(inputs)
        self.seen_by = config.negatives.exclude_seen_by
        self.first_user = 0
        if self.seen_by is not None:
            self.first_user = inputs.first_item(inputs.table_of(self.seen_by).name)
        self.sampler = ItemSampler(inputs.first_item(ids.name), table.num_embeddings, config.negatives)

    def examples(self, batch: Batch) -> Examples:
        """Return what to learn from a batch; here the item of each row with label 1."""
        self._check_rows()
        wanted_B = self.is_positive(batch)
        ids_B = batch.sparse[self.item_feature].values()
        return Examples(JaggedTensor(ids_B[wanted_B], lengths=wanted_B.long()))

    def is_positive(self, batch: Batch) -> Tensor:
        """Return which rows have label 1, an item that is known and a weight, bool [B]."""
        known_B = batch.sparse[self.item_feature].values() >= self.sampler.first
        positive_B: Tensor = (batch.labels_BT[:, 0] > 0.5) & known_B & (batch.weights_B > 0)
        return positive_B

    def queries(self, found: Found, batch: Batch, examples: Examples | None) -> Tensor:
        """Return what is scored against items.

        Args:
            found: vectors by feature.
            batch: the rows.
            examples: of this batch in training; None asks for one query of each row.

        Returns:
            [Q, X]; [B, X] without examples, or where rows have one query each (`row_queries_only`).
        """
        raise NotImplementedError

    def items(self, vectors_ND: Tensor) -> Tensor:
        """Return what queries are scored against, [N, X], of rows of the items' table; here themselves."""
        return vectors_ND

    def item_inputs(self, name: str, ids: JaggedTensor) -> dict[str, JaggedTensor]:
        """Return what is looked up, by feature, to have `item_vectors` of some ids under a name."""
        return {name: ids}

    def item_vectors(self, found: Found, name: str, ids: JaggedTensor) -> Tensor:  # noqa: ARG002
        """Return what queries are scored against, [N, X], of ids that were looked up under a name."""
        return self.items(vectors_of(found, name))

    @property
    def scores_are_products(self) -> bool:
        """Return whether a score is the dot product of a query and an item, as an index needs it."""
        return type(self).scores is ItemModel.scores

    def scores(self, queries_QX: Tensor, items: Tensor) -> Tensor:
        """Return [Q, N]; here dot products.

        Args:
            queries_QX: [Q, X].
            items: [N, X], or [Q, N, X] where each query has its own.
        """
        if items.dim() == 2:
            return queries_QX @ items.T
        return torch.einsum("qx,qnx->qn", queries_QX, items)

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss, a scalar, or scores [B, 1]; float32."""
        if self.training and self.has_own_loss:
            return self._loss(batch)
        self._check_rows()
        ids = batch.sparse[self.item_feature]
        found = self.lookup(batch.sparse, self.item_inputs(self.item_feature, ids))
        items = self.item_vectors(found, self.item_feature, ids)
        scores_B1 = self.scores(self.queries(found, batch, None), items.unsqueeze(1)).float()
        # Of `pointwise` scores stand for probabilities, and these are what is trained.
        pointwise = self._settings.objective == "pointwise"
        return scores_B1 / self._settings.temperature if pointwise else scores_B1

    def row_queries(self, batch: Batch) -> Tensor:
        """Return the query of each row, [B, X]."""
        return self.queries(self.lookup(batch.sparse), batch, None)

    def item_share(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return ids [N] and vectors [N, X] of this rank's share of the items; every rank calls it.

        Args:
            batch: any, for its number of rows and its device.
        """
        mine, every = self._mine(batch), self.item_features.every
        none = {name: _on_first_row(mine.values()[:0], batch.size) for name in self._keys}
        found = self.lookup(batch.sparse, {**none, **self.item_inputs(every, mine)})
        return mine.values(), self.item_vectors(found, every, mine)

    def _check_rows(self) -> None:
        if not self.rows_have_item:
            raise DataError(
                "the rows hold lists of items and none to score",
                where=f"feature {self.item_feature!r}",
                fixes=["model.item: the feature with the id of each row's item"],
            )

    def _loss(self, batch: Batch) -> Tensor:
        examples, names, settings = self.examples(batch), self.item_features, self._settings
        place_Q = segment_rows(examples.targets)
        asked = {names.target: examples.targets, **self._negatives(batch, examples, place_Q)}
        if settings.objective == "softmax":
            asked[names.every] = self._mine(batch)
        given = dict(examples.inputs)
        for name, ids in asked.items():
            given.update(self.item_inputs(name, ids))
        found = self.lookup(batch.sparse, given)
        vectors = {name: self.item_vectors(found, name, ids).float() for name, ids in asked.items()}
        queries_RX = self.queries(found, batch, examples).float()
        queries_QX = queries_RX[place_Q] if self.row_queries_only else queries_RX
        items_QX = vectors[names.target]
        positive_Q = self.scores(queries_QX, items_QX.unsqueeze(1)).squeeze(1).float() / settings.temperature
        if settings.objective == "softmax":
            normaliser_R, mean_R = self._over_all_items(queries_RX, vectors[names.every])
            if self.row_queries_only:
                normaliser_R, mean_R = normaliser_R[place_Q], mean_R[place_Q]
            loss_Q = normaliser_R - smoothed(positive_Q, mean_R, self.loss)
        else:
            loss_Q = self._against_negatives(asked, vectors, queries_QX, positive_Q)
        total = (loss_Q * batch.weights_B[place_Q]).sum()
        for penalty_B in examples.penalties:
            total = total + (penalty_B * batch.weights_B).sum()
        self.parts_left -= 1
        queries_1 = self._counted(batch, examples) if self._whole is None else self._whole[0]
        return total / queries_1.clamp(min=1.0).squeeze()

    def begin_parts(self, batch: Batch, parts: int) -> None:
        """Let the queries of a batch count alike in whichever of its parts they are; every rank calls it.

        Args:
            batch: whole, as the model looks it up.
            parts: that follow, one forward pass each.
        """
        if self.has_own_loss:
            self.parts_left = parts
            self._whole = self._counted(batch, self.examples(batch)) / parts, mean_weight(batch)

    def weight(self, batch: Batch) -> Tensor:
        """Return the mean weight of the rows of all ranks, of this batch or of that it is a part of."""
        return mean_weight(batch) if self._whole is None else self._whole[1]

    def _counted(self, batch: Batch, examples: Examples) -> Tensor:
        """Return the mean number of queries of the ranks, [1].

        Ranks have different numbers: each query counts as much as any other of the global batch.
        """
        queries_B = examples.targets.lengths() * (batch.weights_B > 0)
        counted_B = queries_B.clamp(max=1) if self.row_queries_only else queries_B
        return summed(counted_B.sum().reshape(1).float()) / world()[1]

    def _mine(self, batch: Batch) -> JaggedTensor:
        """Return the ids of this rank's share of all items, on the first row of the batch."""
        rank, ranks = world()
        first, count = self.sampler.first, self.sampler.num_items
        share = -(-count // ranks)
        begin, end = (min(count, share * n) for n in (rank, rank + 1))
        ids_N = torch.arange(first + begin, first + end, device=batch.labels_BT.device)
        return _on_first_row(ids_N, batch.size)

    def _negatives(self, batch: Batch, examples: Examples, place_Q: Tensor) -> dict[str, JaggedTensor]:
        """Return the ids that are drawn, by feature."""
        drawn, given = self._settings.negatives, {}
        if drawn.shared:
            ids_C = self.sampler.shared(batch.labels_BT.device)
            given[self.item_features.shared] = _on_first_row(ids_C, batch.size)
        if drawn.per_query:
            rows_B = row_numbers(batch.rows_B)
            held = [batch.sparse[name] for name in self.holders] + [examples.targets]
            ids_H = torch.cat([ids.values() for ids in held])
            holder_H = torch.cat([rows_B[segment_rows(ids)] for ids in held])
            first_B = examples.targets.offsets()[:-1]
            query_Q = torch.arange(len(place_Q), device=place_Q.device) - first_B[place_Q]
            users_Q = None if self.seen_by is None else batch.sparse[self.seen_by].values()[place_Q]
            ids_QC = self.sampler.per_query(rows_B[place_Q], query_Q, ids_H, holder_H, users_Q)
            lengths_B = examples.targets.lengths() * drawn.per_query
            given[self.item_features.negatives] = JaggedTensor(ids_QC.reshape(-1), lengths=lengths_B)
        return given

    def _against_negatives(
        self,
        asked: Mapping[str, JaggedTensor],
        vectors: Mapping[str, Tensor],
        queries_QX: Tensor,
        positive_Q: Tensor,
    ) -> Tensor:
        settings, names, drawn = self._settings, self.item_features, self._settings.negatives
        targets_Q = asked[names.target].values()
        pools: list[tuple[Tensor, Tensor]] = []  # ids, and vectors, of each query or of all
        if drawn.per_query:
            shape = (len(targets_Q), drawn.per_query)
            own_NX = vectors[names.negatives]
            pools.append(
                (asked[names.negatives].values().reshape(shape), own_NX.reshape(*shape, own_NX.shape[1]))
            )
        if drawn.shared:
            pools.append((asked[names.shared].values(), vectors[names.shared]))
        queries = len(targets_Q)
        if drawn.in_batch:
            ids_C, _ = gathered(targets_Q)
            queries = len(ids_C)
            pools.append((ids_C, gathered(vectors[names.target])[0]))
        ids_QC = torch.cat([ids.expand(len(targets_Q), ids.shape[-1]) for ids, _ in pools], dim=1)
        parts = [self.scores(queries_QX, items).float() / settings.temperature for _, items in pools]
        counts_QC = (ids_QC != targets_Q.unsqueeze(1)) & (ids_QC >= self.sampler.first)
        if self.row_queries_only:
            # All targets of a row are the same query's: none of them is a negative of another. What is drawn
            # for a query is none of them anyway.
            shared = [ids for ids, _ in pools if ids.dim() == 1]
            if shared:
                held_QC = self._held(asked[names.target], torch.cat(shared))
                counts_QC[:, counts_QC.shape[1] - held_QC.shape[1] :] &= ~held_QC
        if drawn.log_q:
            positive_Q = positive_Q - self.sampler.expected_log_count(targets_Q, queries)
            # Once for each item, and not again for each query that shares it.
            logs = [self.sampler.expected_log_count(ids, queries) for ids, _ in pools]
            parts = [part - log for part, log in zip(parts, logs, strict=True)]
        negative_QC = torch.cat(parts, dim=1)
        if drawn.hard is not None:
            counts_QC = hardest(negative_QC, counts_QC, drawn.hard)
        return _PAIRWISE[settings.objective](positive_Q, negative_QC, counts_QC, self.loss)

    def _held(self, targets: JaggedTensor, ids_C: Tensor) -> Tensor:
        """Return which of some ids are targets of each query's row, bool [Q, C]."""
        place_Q, items = segment_rows(targets), self.sampler.first + self.sampler.num_items
        # Pairs of row and item, as one number.
        row_R1 = torch.arange(len(targets.lengths()), device=ids_C.device).unsqueeze(1)
        return torch.isin(row_R1 * items + ids_C, place_Q * items + targets.values())[place_Q]

    def _over_all_items(self, queries_QX: Tensor, every_NX: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithm of the sum of exp(score) over the items of all ranks, and the mean score, [Q].

        The mean is 0 where no labels are smoothed.
        """
        everyone_QX, own = gathered(queries_QX)
        scores_QN = self.scores(everyone_QX, every_NX).float() / self._settings.temperature
        mean_Q = scores_QN.new_zeros(len(everyone_QX))
        if self.loss.label_smoothing:
            mean_Q = summed(scores_QN.sum(dim=1)) / self.sampler.num_items
        return self._log_normaliser(scores_QN)[own], mean_Q[own]

    @staticmethod
    def _log_normaliser(scores_QN: Tensor) -> Tensor:
        """Return the logarithm of the sum of exp(score) over all ranks' items, of the queries of all, [Q]."""
        if world()[1] == 1:
            return torch.logsumexp(scores_QN, dim=1)
        top_Q = scores_QN.new_full((len(scores_QN),), -torch.inf)
        if scores_QN.shape[1]:
            top_Q = scores_QN.detach().amax(dim=1)
        top_Q = largest(top_Q)
        sum_Q = summed(torch.exp(scores_QN - top_Q.unsqueeze(1)).sum(dim=1))
        normaliser_Q: Tensor = top_Q + sum_Q.log()
        return normaliser_Q


def mean_weight(batch: Batch) -> Tensor:
    """Return the mean weight of the rows of all ranks, a scalar; every rank calls it."""
    return (summed(batch.weights_B.sum().reshape(1)) / world()[1]).squeeze() / batch.size


def vectors_of(found: Found, feature: str) -> Tensor:
    """Return the vectors of a feature's ids, [ids, D]."""
    kept = found[feature]
    assert isinstance(kept, JaggedTensor)
    values_ND: Tensor = kept.values()
    return values_ND


def _on_first_row(ids_N: Tensor, rows: int) -> JaggedTensor:
    lengths_B = torch.zeros(rows, dtype=torch.int64, device=ids_N.device)
    lengths_B[:1] = len(ids_N)
    return JaggedTensor(ids_N, lengths=lengths_B)
