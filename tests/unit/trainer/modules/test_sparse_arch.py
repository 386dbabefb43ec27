from __future__ import annotations

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedTensor

from tests.unit.trainer.models.examples import fill_tables, full_inputs, random_batch, table
from trainer.modules.sequence_pooling import SequencePooling
from trainer.modules.sparse_arch import FeatureVectors, SparseArch
from trainer.registry import ModelInputs


def test_vectors_follow_the_features_not_the_tables() -> None:
    inputs = ModelInputs(0, ("m0", "s1", "s0"), (table("t", ["s0", "m0"], 4, "mean"), table("s1", ["s1"], 4)))
    arch = SparseArch(inputs, embedding_dim=4)
    weights, batch = fill_tables(arch), random_batch(inputs, 5)
    ids = {key: [v.numpy() for v in jagged.to_dense()] for key, jagged in batch.sparse.to_dict().items()}
    vectors = arch(batch.sparse).detach().numpy()
    assert vectors.shape == (5, 3, 4)
    t, s1 = weights["t"].numpy(), weights["s1"].numpy()
    for row in range(5):
        bag = t[ids["m0"][row]].mean(axis=0) if len(ids["m0"][row]) else np.zeros(4)
        assert np.allclose(vectors[row, 0], bag, atol=1e-6)
        assert np.allclose(vectors[row, 1], s1[ids["s1"][row][0]], atol=1e-6)
        assert np.allclose(vectors[row, 2], t[ids["s0"][row][0]], atol=1e-6)


def test_keyed_tensor_is_read_by_name() -> None:
    inputs = ModelInputs(0, ("s0", "s1"), (table("s0", ["s0"], 2), table("s1", ["s1"], 2)))
    s0, s1 = torch.randn(3, 2), torch.randn(3, 2)
    vectors = FeatureVectors(inputs, "mean", 2)
    for keys, values in ((["s0", "s1"], [s0, s1]), (["s1", "s0"], [s1, s0])):
        pooled = KeyedTensor(keys=keys, length_per_key=[2, 2], values=torch.cat(values, dim=1))
        ids = random_batch(inputs, 3).sparse
        assert torch.equal(vectors(ids, pooled, None), torch.stack([s0, s1], dim=1))


@pytest.mark.parametrize("pooling", ["attention", "mean"])
def test_one_id_that_shares_a_sequence_table_gets_its_embedding(pooling: SequencePooling) -> None:
    inputs = full_inputs()
    arch = SparseArch(inputs, pooling, 8)
    weights, batch = fill_tables(arch), random_batch(inputs, 5)
    s1 = weights["s1"][batch.sparse.to_dict()["s1"].values()]
    assert torch.allclose(arch(batch.sparse)[:, 1], s1, atol=1e-6)


def test_other_widths_get_a_linear_map() -> None:
    inputs = ModelInputs(0, ("s0", "s1"), (table("s0", ["s0"], 8), table("s1", ["s1"], 3)))
    arch = SparseArch(inputs, embedding_dim=8)
    weights, batch = fill_tables(arch), random_batch(inputs, 5)
    ids = batch.sparse.to_dict()
    vectors = arch(batch.sparse)
    assert torch.equal(vectors[:, 0], weights["s0"][ids["s0"].values()])
    mapped = weights["s1"][ids["s1"].values()] @ arch.vectors.projections[1].weight.T
    assert torch.allclose(vectors[:, 1], mapped, atol=1e-6)
    assert not list(arch.vectors.projections[0].parameters())


def test_without_one_width_the_vectors_stand_side_by_side() -> None:
    inputs = ModelInputs(0, ("s0", "s1"), (table("s0", ["s0"], 8), table("s1", ["s1"], 3)))
    arch = SparseArch(inputs)
    fill_tables(arch)
    assert arch.out_dims == (8, 3)
    assert arch(random_batch(inputs, 5).sparse).shape == (5, 11)
