"""Models equal TorchRec's with the same weights; DLRM's turn is in `test_dlrm`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torchrec.models.deepfm import SimpleDeepFMNN
from torchrec.models.dlrm import DLRM_DCN
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from tests.unit.trainer.models.examples import example_model, fill_tables, pooled_inputs, random_batch
from trainer.batch import Batch
from trainer.registry import ModelInputs

ROWS = 9


def _bags(inputs: ModelInputs, weights: dict[str, Tensor]) -> EmbeddingBagCollection:
    configs = [
        EmbeddingBagConfig(
            name=table.name,
            num_embeddings=table.num_embeddings,
            embedding_dim=weights[table.name].shape[1],
            feature_names=list(table.features),
        )
        for table in inputs.tables
    ]
    bags = EmbeddingBagCollection(tables=configs)
    bags.load_state_dict({f"embedding_bags.{name}.weight": weight for name, weight in weights.items()})
    return bags


def _positive_batch(inputs: ModelInputs) -> Batch:
    """Return rows whose dense features pass the ReLU of TorchRec's dense arches as they are."""
    batch = random_batch(inputs, ROWS)
    return replace(batch, dense_BF=batch.dense_BF.abs() + 0.1)


@torch.no_grad()
def _fill(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give every named parameter its value, and no other shape."""
    named = dict(model.named_parameters())
    for name, weight in weights.items():
        assert named[name].shape == weight.shape, name
        named[name].copy_(weight)


def test_dcn_v2_of_low_rank_equals_torchrecs() -> None:
    dim, layers = 8, 2
    inputs = pooled_inputs(dim, num_dense=dim, num_features=3)
    model = example_model("dcn_v2", inputs, num_cross_layers=layers, low_rank_dim=3, deep_layer_sizes=[10, 5])
    for name, parameter in model.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)
    tables = fill_tables(model, seed=5)
    reference = DLRM_DCN(_bags(inputs, tables), dim, [dim], [10, 5, 1], layers, 3)
    # TorchRec's input begins with the dense vector, ours ends with the dense features.
    ours = dict(model.named_parameters())
    order = torch.arange(dim * 4).roll(dim)
    weights = {
        "dense_arch.model._mlp.0._linear.weight": torch.eye(dim),
        "dense_arch.model._mlp.0._linear.bias": torch.zeros(dim),
        "over_arch.model.0._mlp.0._linear.weight": ours["deep._mlp.0._linear.weight"][:, order],
        "over_arch.model.0._mlp.0._linear.bias": ours["deep._mlp.0._linear.bias"],
        "over_arch.model.0._mlp.1._linear.weight": ours["deep._mlp.1._linear.weight"],
        "over_arch.model.0._mlp.1._linear.bias": ours["deep._mlp.1._linear.bias"],
        "over_arch.model.1.weight": ours["over_arch.logits.weight"],
        "over_arch.model.1.bias": ours["over_arch.logits.bias"],
    }
    for layer in range(layers):
        for kernel, columns in (("V_kernels", (slice(None), order)), ("W_kernels", (order, slice(None)))):
            name = f"{kernel}.{layer}"
            weights[f"inter_arch.crossnet.{name}"] = ours[f"cross_net.{name}"][columns]
        weights[f"inter_arch.crossnet.bias.{layer}"] = ours[f"cross_net.bias.{layer}"][order]
    _fill(reference, weights)
    batch = _positive_batch(inputs)
    expected = reference(dense_features=batch.dense_BF, sparse_features=batch.sparse)
    assert torch.allclose(model(batch), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.01


def test_deep_fm_of_one_number_to_a_feature_equals_torchrecs() -> None:
    # TorchRec's machine multiplies all numbers of all vectors: the paper's is that of vectors of one number.
    inputs = pooled_inputs(dim=1, num_dense=1, num_features=3)
    model = example_model("deep_fm", inputs, embedding_dim=1, deep_layer_sizes=[6])
    tables = fill_tables(model, seed=5, scale=1.0)
    ours = dict(model.named_parameters())
    vectors = {name: weight[:, :1].clone() for name, weight in tables.items()}
    _fill(model, {"field_arch.dense_fields.vectors_FD": torch.ones(1, 1)})
    with torch.no_grad():  # TorchRec has first-order weights of the dense vector alone.
        for name, parameter in ours.items():
            if "embedding_bags" in name:
                parameter[:, 1:] = 0.0
    reference = SimpleDeepFMNN(1, _bags(inputs, vectors), hidden_layer_size=1, deep_fm_dimension=6)
    last = [ours["field_arch.dense_fields.weights.weight"], ours["deep.logits.weight"], torch.ones(1, 1)]
    _fill(
        reference,
        {
            "dense_arch.model.0.weight": torch.ones(1, 1),
            "dense_arch.model.0.bias": torch.zeros(1),
            "dense_arch.model.2.weight": torch.ones(1, 1),
            "dense_arch.model.2.bias": torch.zeros(1),
            "inter_arch.deep_fm.dense_module.0.weight": ours["deep.hidden._mlp.0._linear.weight"],
            "inter_arch.deep_fm.dense_module.0.bias": ours["deep.hidden._mlp.0._linear.bias"],
            "over_arch.model.0.weight": torch.cat(last, dim=1),
            "over_arch.model.0.bias": ours["deep.logits.bias"] + ours["field_arch.bias"],
        },
    )
    batch = _positive_batch(inputs)
    expected = reference(dense_features=batch.dense_BF, sparse_features=batch.sparse)
    assert torch.allclose(model(batch).sigmoid(), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.01
