"""A small model with embedding tables, sharded or as plain torch, and the data to train it.

The reference uses neither TorchRec nor FBGEMM: dense gradients and optimizers written out here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharding.tables import TableSpec, build_collections, pooled_vectors, sequence_vectors
from sharding.weights import uniform_block

MAX_LENGTH = 4
SEED = 11


class TableModel(nn.Module):
    """Pooled and sequence tables into one linear layer; `forward` returns the mean loss of the batch."""

    def __init__(self, tables: Sequence[TableSpec]) -> None:
        super().__init__()
        self.tables = list(tables)
        bags, rows = build_collections(tables)
        self.bags: EmbeddingBagCollection | None = bags
        self.rows: EmbeddingCollection | None = rows
        self.over = make_linear(tables)

    def forward(self, ids: KeyedJaggedTensor, labels_B: Tensor) -> Tensor:
        parts: dict[str, Tensor] = {}
        if self.bags is not None:
            parts.update(pooled_vectors(self.bags(ids), ids, self.tables))
        if self.rows is not None:
            for key, jagged in self.rows(ids).items():
                parts[key] = weigh_positions(sequence_vectors(jagged).to_padded_dense(MAX_LENGTH))
        joined = torch.cat([parts[f] for t in self.tables for f in t.features], dim=1)
        return loss_of(self.over, joined, labels_B)


def make_linear(tables: Sequence[TableSpec]) -> nn.Linear:
    width = sum(table.embedding_dim * len(table.features) for table in tables)
    layer = nn.Linear(width, 1)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(SEED)
        layer.weight.uniform_(-0.5, 0.5, generator=generator)
        layer.bias.zero_()
    return layer


def weigh_positions(padded_BLD: Tensor) -> Tensor:
    """Sum over positions with unequal weights, so that an exchanged order changes the loss."""
    weights_L = 1.0 / torch.arange(1, padded_BLD.shape[1] + 1, dtype=padded_BLD.dtype)
    return torch.einsum("bld,l->bd", padded_BLD, weights_L)


def loss_of(layer: nn.Linear, joined_BW: Tensor, labels_B: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(2 * layer(joined_BW).squeeze(1), labels_B)


def make_batch(
    tables: Sequence[TableSpec], step: int, size: int, empty: range = range(0), absent: Collection[str] = ()
) -> tuple[dict[str, list[list[int]]], Tensor]:
    """Return ids by feature and row (some rows empty, all of `empty`, ids repeated), and labels.

    In odd steps no row has an id of the features `absent`.
    """
    generator = torch.Generator().manual_seed(1000 + step)
    ids: dict[str, list[list[int]]] = {}
    for table in tables:
        # Few ids, so that they repeat, from the first row to the last: every block of rows is looked up.
        count = min(table.num_embeddings, 12)
        rows = torch.linspace(0, table.num_embeddings - 1, count).long()
        for feature in table.features:
            lengths = torch.randint(0, MAX_LENGTH + 1, (size,), generator=generator).tolist()
            ids[feature] = [
                rows[torch.randint(0, count, (length,), generator=generator)].tolist() for length in lengths
            ]
            for row in range(size) if step % 2 and feature in absent else empty:
                ids[feature][row] = []
    labels = torch.randint(0, 2, (size,), generator=generator).float()
    return ids, labels


def to_kjt(ids: dict[str, list[list[int]]], rows: range) -> KeyedJaggedTensor:
    lists = [ids[feature][row] for feature in ids for row in rows]
    return KeyedJaggedTensor(
        keys=list(ids),
        values=torch.tensor([value for values in lists for value in values], dtype=torch.int64),
        lengths=torch.tensor([len(values) for values in lists], dtype=torch.int32),
    )


def reference_losses(
    tables: Sequence[TableSpec],
    *,
    optimizer: str,
    learning_rate: float,
    eps: float,
    steps: int,
    size: int,
    widths: Mapping[str, int] | None = None,
    empty: range = range(0),
    absent: Collection[str] = (),
    fp16: bool = False,
    decay: float = 1.0,
) -> list[float]:
    """Train in one process with dense gradients and the optimizer's textbook rule on touched rows.

    Args:
        tables: of the model.
        optimizer: of the tables.
        learning_rate: of tables without one of their own.
        eps: added to the denominator.
        steps: to train.
        size: rows of a batch.
        widths: columns that share a moment of row-wise Adagrad, by table; default all.
        empty: rows of every batch without an id.
        absent: features without an id in odd steps.
        fp16: round what is looked up, and its gradient, to fp16.
        decay: of the learning rates of tables, from step to step.
    """
    training = UnshardedTraining(tables, optimizer, learning_rate, eps, fp16=fp16)
    batches = [make_batch(tables, step % 2, size, empty, absent) for step in range(steps)]
    return [training.step(*batch, widths or {}, decay**step) for step, batch in enumerate(batches)]


class UnshardedTraining:
    """The model in one process; the arguments are those of `reference_losses`.

    Attributes:
        moments: of the optimizer, by table [num_embeddings, embedding_dim].
    """

    def __init__(
        self,
        tables: Sequence[TableSpec],
        optimizer: str,
        learning_rate: float,
        eps: float,
        *,
        fp16: bool = False,
    ) -> None:
        self._tables, self._optimizer, self._fp16 = tables, optimizer, fp16
        self._learning_rate, self._eps = learning_rate, eps
        self._weights = _initial(tables)
        self.moments = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        self._layer = make_linear(tables)
        self._dense = torch.optim.SGD(self._layer.parameters(), lr=0.1)

    def step(
        self,
        ids: Mapping[str, list[list[int]]],
        labels: Tensor,
        widths: Mapping[str, int],
        factor: float = 1.0,
    ) -> float:
        """Train on one batch, with learning rates of tables times a factor; return the loss before it."""
        parts = [
            # The dense kernel of the CPU gives fp32 whatever it is asked for.
            _embed(
                self._weights[t.name],
                ids[f],
                t.pooling,
                self._fp16 and t.sharding_types != ("data_parallel",),
            )
            for t in self._tables
            for f in t.features
        ]
        loss = loss_of(self._layer, torch.cat(parts, dim=1), labels)
        self._dense.zero_grad()
        loss.backward()
        self._dense.step()
        for table in self._tables:
            rate = self._learning_rate if table.learning_rate is None else table.learning_rate
            touched = sorted({i for f in table.features for row in ids[f] for i in row})
            width = widths.get(table.name, table.embedding_dim)
            weight, moment = self._weights[table.name], self.moments[table.name]
            _reference_step(weight, moment, touched, self._optimizer, rate * factor, self._eps, width)
            _store(weight, table)
        return loss.item()


def grouped_reference(
    tables: Sequence[TableSpec],
    *,
    optimizer: str,
    learning_rate: float,
    eps: float,
    steps: int,
    size: int,
    groups: int,
    sync_every: int,
) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """Train a copy of the tables for each group on its share of the rows; average the copies now and then.

    The dense layer and data-parallel tables take the mean gradient of all groups.

    Returns:
        Losses over all rows; weights and moments by table, averaged after the last step.
    """
    copies, moments = [_initial(tables) for _ in range(groups)], [{} for _ in range(groups)]
    layer = make_linear(tables)
    dense = torch.optim.SGD(layer.parameters(), lr=0.1)
    for table in tables:
        if table.sharding_types == ("data_parallel",):
            for copy in copies[1:]:
                copy[table.name] = copies[0][table.name]
    for copy, moment in zip(copies, moments, strict=True):
        moment.update({name: torch.zeros_like(weight) for name, weight in copy.items()})
    losses = []
    for step in range(steps):
        ids, labels = make_batch(tables, step % 2, size)
        shares = [range(g * size // groups, (g + 1) * size // groups) for g in range(groups)]
        each = []
        for copy, rows in zip(copies, shares, strict=True):
            own = {feature: [lists[row] for row in rows] for feature, lists in ids.items()}
            parts = [_embed(copy[t.name], own[f], t.pooling) for t in tables for f in t.features]
            each.append(loss_of(layer, torch.cat(parts, dim=1), labels[rows.start : rows.stop]))
        dense.zero_grad()
        torch.stack(each).sum().backward()
        losses.append(sum(loss.item() for loss in each) / groups)
        for parameter in layer.parameters():
            parameter.grad /= groups
        dense.step()
        for table in tables:
            rate = learning_rate if table.learning_rate is None else table.learning_rate
            shared = copies[0][table.name] is copies[-1][table.name]
            if shared:
                copies[0][table.name].grad /= groups
            for number in range(1 if shared else groups):
                rows = range(size) if shared else shares[number]
                touched = sorted({i for f in table.features for row in rows for i in ids[f][row]})
                weight, moment = copies[number][table.name], moments[number][table.name]
                _reference_step(weight, moment, touched, optimizer, rate, eps, table.embedding_dim)
                _store(weight, table)
        if (step + 1) % sync_every == 0 or step + 1 == steps:
            for table in tables:
                name = table.name
                _average([copy[name] for copy in copies])
                for copy in copies:
                    _store(copy[name], table)
                if copies[0][name] is not copies[-1][name]:
                    _average([moment[name] for moment in moments])
    return losses, {name: weight.detach() for name, weight in copies[0].items()}, moments[0]


@torch.no_grad()
def _store(weight: Tensor, table: TableSpec) -> None:
    weight.copy_(_stored(weight, table))


def _initial(tables: Sequence[TableSpec]) -> dict[str, Tensor]:
    weights = {}
    for table in tables:
        shape = (table.num_embeddings, table.embedding_dim)
        block = uniform_block(SEED, table.name, range(shape[0]), range(shape[1]), table_shape=shape)
        weights[table.name] = _stored(block.clone(), table).requires_grad_()
    return weights


@torch.no_grad()
def _average(tensors: Sequence[Tensor]) -> None:
    mean = torch.stack(list(tensors)).mean(0)
    for tensor in tensors:
        tensor.copy_(mean)


def _stored(weight: Tensor, table: TableSpec) -> Tensor:
    """Return the weights as the table's data type keeps them."""
    return weight.half().float() if table.data_type == "fp16" else weight


def _embed(weight: Tensor, ids: list[list[int]], pooling: str, fp16: bool = False) -> Tensor:
    out = []
    for row in ids:
        vectors = weight[torch.tensor(row, dtype=torch.int64)]
        if pooling == "none":
            scale = 1.0 / torch.arange(1, len(row) + 1, dtype=vectors.dtype)
            out.append((_rounded(vectors, fp16) * scale[:, None]).sum(0))
        else:
            total = _rounded(vectors.sum(0), fp16)
            out.append(total / (max(1, len(row)) if pooling == "mean" else 1))
    return torch.stack(out)


def _rounded(vectors: Tensor, fp16: bool) -> Tensor:
    """Return what a kernel with fp16 output gives; torch rounds the gradient too."""
    return vectors.half().float() if fp16 else vectors


@torch.no_grad()
def _reference_step(
    weight: Tensor, moment: Tensor, touched: list[int], optimizer: str, rate: float, eps: float, width: int
) -> None:
    gradient = weight.grad
    assert gradient is not None
    for row in touched:
        g = gradient[row]
        if optimizer == "sgd":
            weight[row] -= rate * g
            continue
        square = g * g
        if optimizer == "rowwise_adagrad":
            square = square.view(-1, width).mean(dim=1).repeat_interleave(width)
        moment[row] += square
        weight[row] -= rate * g / (moment[row].sqrt() + eps)
    weight.grad = None
