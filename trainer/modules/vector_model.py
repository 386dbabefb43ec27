"""What models share that work on vectors of one width: DHEN and Wukong."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torchrec.models.dlrm import DenseArch

from trainer.batch import Batch
from trainer.modules.sparse_arch import SparseArch, SparseModelSection
from trainer.registry import ModelInputs


class VectorModelSection(SparseModelSection):
    """Config keys of models on vectors."""

    dense_arch_layer_sizes: list[PositiveInt] = Field(default=[64])
    """Hidden layers over the dense features; a last layer to their vectors follows by itself."""
    num_dense_vectors: int = Field(default=1, ge=1)
    """Vectors of width `embedding_dim` that the dense features become."""


class VectorModel(nn.Module):
    """A model whose input is vectors of width D: first those of the dense features, then one per feature.

    Args:
        inputs: features and tables; a table of another width gets a linear map to D.
        config: the model's config section.

    Attributes:
        num_vectors: M; without dense features there are none of theirs.
    """

    def __init__(self, inputs: ModelInputs, config: VectorModelSection) -> None:
        super().__init__()
        self.dim = config.embedding_dim
        self.num_dense_vectors = config.num_dense_vectors if inputs.num_dense else 0
        self.sparse_arch = SparseArch(inputs, config.sequence_pooling, self.dim)
        if inputs.num_dense:
            sizes = [*config.dense_arch_layer_sizes, self.num_dense_vectors * self.dim]
            self.dense_arch = DenseArch(inputs.num_dense, sizes)
        self.num_vectors = self.num_dense_vectors + self.sparse_arch.num_features

    def vectors(self, batch: Batch) -> Tensor:
        """Return [B, M, D]."""
        x_BMD: Tensor = self.sparse_arch(batch.sparse)
        if not self.num_dense_vectors:
            return x_BMD
        dense_BMD = self.dense_arch(batch.dense_BF).reshape(-1, self.num_dense_vectors, self.dim)
        return torch.cat([dense_BMD, x_BMD], dim=1)
