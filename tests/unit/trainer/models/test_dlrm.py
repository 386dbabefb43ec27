from __future__ import annotations

import numpy as np
import pytest
import torch
from torchrec.models import dlrm as torchrec_dlrm
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from tests.unit.trainer.models.examples import example_model, fill_tables, pooled_inputs, random_batch, table
from trainer.registry import ModelInputs


def _mlp(state: dict[str, torch.Tensor], prefix: str, x: np.ndarray) -> np.ndarray:
    layer = 0
    while f"{prefix}.{layer}._linear.weight" in state:
        weight = state[f"{prefix}.{layer}._linear.weight"].numpy()
        x = np.maximum(weight @ x + state[f"{prefix}.{layer}._linear.bias"].numpy(), 0)
        layer += 1
    assert layer > 0
    return x


@pytest.mark.parametrize("num_dense", [3, 0])
@pytest.mark.parametrize("concat", [False, True])
def test_logits_equal_a_loop_over_rows_and_pairs(num_dense: int, concat: bool) -> None:
    tables = (table("s0", ["s0"]), table("m0", ["m0"], pooling="mean"), table("s1", ["s1"]))
    inputs = ModelInputs(num_dense, ("m0", "s1", "s0"), tables)
    model, batch = (
        example_model("dlrm", inputs, over_arch_layer_sizes=[16], concat_embeddings=concat),
        random_batch(inputs, 6),
    )
    weights = {name: w.numpy() for name, w in fill_tables(model, seed=5).items()}
    state = model.state_dict()
    ids = {k: [x.numpy() for x in v.to_dense()] for k, v in batch.sparse.to_dict().items()}
    expected = []
    for row in range(6):
        if num_dense:
            dense = _mlp(state, "dense_arch.model._mlp", batch.dense_BF[row].numpy())
        else:
            dense = state["dense_arch.bias_D"].numpy()
        bags = [weights["m0"][ids["m0"][row]], weights["s1"][ids["s1"][row]], weights["s0"][ids["s0"][row]]]
        m0 = bags[0].mean(axis=0) if len(bags[0]) else np.zeros(8)
        vectors = [dense, m0, bags[1].sum(axis=0), bags[2].sum(axis=0)]
        dots = [vectors[i] @ vectors[j] for i in range(4) for j in range(i + 1, 4)]
        hidden = _mlp(
            state, "over_arch.hidden._mlp", np.concatenate([dense, dots, *(vectors[1:] if concat else [])])
        )
        expected.append(
            state["over_arch.logits.weight"].numpy() @ hidden + state["over_arch.logits.bias"].numpy()
        )
    assert np.allclose(model(batch).detach().numpy(), np.stack(expected), atol=1e-5)


def test_equals_torchrecs_dlrm_with_the_same_weights() -> None:
    inputs = pooled_inputs(num_features=4)
    model = example_model("dlrm", inputs, dense_arch_layer_sizes=[12, 6], over_arch_layer_sizes=[10, 5])
    tables = [
        EmbeddingBagConfig(
            name=t.name,
            num_embeddings=t.num_embeddings,
            embedding_dim=t.embedding_dim,
            feature_names=list(t.features),
        )
        for t in inputs.tables
    ]
    reference = torchrec_dlrm.DLRM(EmbeddingBagCollection(tables=tables), 3, [12, 6, 8], [10, 5, 1])
    names = {"over_arch.hidden": "over_arch.model.0", "over_arch.logits": "over_arch.model.1"}
    state = {}
    for key, value in model.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        state[key] = value
    reference.load_state_dict(state)
    batch = random_batch(inputs, 7)
    expected = reference(dense_features=batch.dense_BF, sparse_features=batch.sparse)
    assert torch.allclose(model(batch), expected, atol=1e-6)


def test_number_of_dense_parameters_follows_the_formula() -> None:
    features, dim = 5, 8
    model = example_model(
        "dlrm",
        pooled_inputs(num_features=features),
        dense_arch_layer_sizes=[12],
        over_arch_layer_sizes=[10],
    )
    dense = (3 * 12 + 12) + (12 * dim + dim)
    over = (dim + features * (features + 1) // 2) * 10 + 10 + 10 + 1
    count = sum(p.numel() for key, p in model.named_parameters() if "embedding" not in key)
    assert count == dense + over
