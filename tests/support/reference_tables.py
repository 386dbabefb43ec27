"""A small model with embedding tables, sharded or as plain torch, and the data to train it.

The reference uses neither TorchRec nor FBGEMM: dense gradients and optimizers written out here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharding.tables import TableSpec, build_collections, pooled_vectors
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
                parts[key] = weigh_positions(jagged.to_padded_dense(MAX_LENGTH))
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
    tables: Sequence[TableSpec], step: int, size: int
) -> tuple[dict[str, list[list[int]]], Tensor]:
    """Return ids by feature and row (some rows empty, ids repeated), and labels."""
    generator = torch.Generator().manual_seed(1000 + step)
    ids: dict[str, list[list[int]]] = {}
    for table in tables:
        for feature in table.features:
            lengths = torch.randint(0, MAX_LENGTH + 1, (size,), generator=generator).tolist()
            ids[feature] = [
                torch.randint(0, min(table.num_embeddings, 12), (length,), generator=generator).tolist()
                for length in lengths
            ]
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
) -> list[float]:
    """Train in one process with dense gradients and the optimizer's textbook rule on touched rows."""
    weights = {}
    for table in tables:
        shape = (table.num_embeddings, table.embedding_dim)
        block = uniform_block(SEED, table.name, range(shape[0]), range(shape[1]), table_shape=shape)
        weights[table.name] = block.clone().requires_grad_()
    moments = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    layer = make_linear(tables)
    dense = torch.optim.SGD(layer.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        ids, labels = make_batch(tables, step % 2, size)
        parts = [_embed(weights[t.name], ids[f], t.pooling) for t in tables for f in t.features]
        loss = loss_of(layer, torch.cat(parts, dim=1), labels)
        losses.append(loss.item())
        dense.zero_grad()
        loss.backward()
        dense.step()
        for table in tables:
            rate = learning_rate if table.learning_rate is None else table.learning_rate
            touched = sorted({i for f in table.features for row in ids[f] for i in row})
            _reference_step(weights[table.name], moments[table.name], touched, optimizer, rate, eps)
    return losses


def _embed(weight: Tensor, ids: list[list[int]], pooling: str) -> Tensor:
    out = []
    for row in ids:
        vectors = weight[torch.tensor(row, dtype=torch.int64)]
        if pooling == "none":
            scale = 1.0 / torch.arange(1, len(row) + 1, dtype=vectors.dtype)
            out.append((vectors * scale[:, None]).sum(0))
        else:
            out.append(vectors.sum(0) / (max(1, len(row)) if pooling == "mean" else 1))
    return torch.stack(out)


@torch.no_grad()
def _reference_step(
    weight: Tensor, moment: Tensor, touched: list[int], optimizer: str, rate: float, eps: float
) -> None:
    gradient = weight.grad
    assert gradient is not None
    for row in touched:
        g = gradient[row]
        if optimizer == "sgd":
            weight[row] -= rate * g
            continue
        moment[row] += (g * g).mean() if optimizer == "rowwise_adagrad" else g * g
        weight[row] -= rate * g / (moment[row].sqrt() + eps)
    weight.grad = None
