"""DIN, the deep interest network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from trainer.batch import Batch
from trainer.errors import ConfigError
from trainer.modules.arches import OverArch
from trainer.modules.row_dropout import RowDropout
from trainer.modules.sequence_pooling import MeanSequencePooling
from trainer.modules.sparse_arch import FeatureVectors, SparseArch, SparseModelSection, looked_up
from trainer.modules.target_attention import Activation, TargetAttention, activation
from trainer.registry import ModelInputs, register_model


class DinConfig(SparseModelSection):
    """Config keys of `din`."""

    needs: ClassVar[str] = "a history kept by `pooling: none`, and the feature that it is for"
    targets: dict[str, str] | None = Field(default=None, min_length=1)
    """Target of each history, by feature: `{watched: movie_id}`. Default: of each sequence kept by
    `pooling: none` the feature that shares its table."""
    attention_layer_sizes: list[PositiveInt] = Field(default=[80, 40])
    """Hidden layers of the network that weighs a history's ids."""
    deep_layer_sizes: list[PositiveInt] = Field(default=[200, 80])
    """Hidden layers over all vectors; the logit follows by itself."""
    activation: Activation = "dice"
    """Of all hidden layers."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the deep network's hidden units dropped in training."""

    def target_of(self, inputs: ModelInputs) -> Mapping[str, str]:
        """Return the target of each history.

        Raises:
            ConfigError: there is no history, or no one target for it.
        """
        kept = [table for table in inputs.tables if table.pooling == "none"]
        if self.targets is not None:
            histories = [name for table in kept for name in table.features if name in inputs.lists]
            _check_targets(self.targets, histories, inputs)
            return self.targets
        found: dict[str, str] = {}
        for table in kept:
            histories = [name for name in table.features if name in inputs.lists]
            targets = [name for name in table.features if name not in inputs.lists]
            if len(targets) == 1:
                found |= dict.fromkeys(histories, targets[0])
        if not found:
            raise ConfigError(
                "the model needs a history that shares the table of the one feature that it is for",
                where="features.sequence",
                got=f"sequences with `pooling: none`: {[name for table in kept for name in table.features]}",
                fixes=[
                    "give a sequence `pooling: none` and `table: <the feature that it is for>`",
                    "name both in model.targets: {<sequence>: <feature>}",
                ],
            )
        return found


def _check_targets(targets: Mapping[str, str], histories: Sequence[str], inputs: ModelInputs) -> None:
    for history, target in targets.items():
        where = f"model.targets.{history}"
        if history not in histories:
            raise ConfigError("no sequence with `pooling: none`", where=where, got=history, allowed=histories)
        single = [name for name in inputs.features if name not in inputs.lists]
        if target not in single:
            raise ConfigError("no feature of one id", where=where, got=target, allowed=single)
        widths = [inputs.table_of(name).embedding_dim for name in (history, target)]
        if widths[0] != widths[1]:
            raise ConfigError(
                "a history and its target need vectors of one width",
                where=where,
                got=f"{history}: {widths[0]}, {target}: {widths[1]}",
                fixes=[f"tables.{inputs.table_of(target).name}.embedding_dim: {widths[0]}"],
            )


@register_model(
    "din", config=DinConfig, task="ctr", source="Zhou et al. 2018, arXiv:1706.06978", several_tasks=True
)
class DIN(nn.Module):
    """A history weighed by what the row's target has to do with each of its ids, and a deep network.

    Each history becomes the sum of its vectors, weighted by a network that sees each beside the target's
    (`trainer.modules.target_attention`). All vectors and the dense features pass the deep network. Other
    sequences are pooled by `sequence_pooling`.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Zhou et al. 2018, arXiv:1706.06978, sections 4.3 (activation unit) and 5.2 (Dice).
    """

    def __init__(self, inputs: ModelInputs, config: DinConfig) -> None:
        super().__init__()
        self.sparse_arch = SparseArch(inputs, vectors=_AttendedVectors(inputs, config))
        before = sum(self.sparse_arch.out_dims) + inputs.num_dense
        layers: list[nn.Module] = []
        for size in config.deep_layer_sizes:
            layers += [
                nn.Linear(before, size),
                activation(config.activation, size),
                RowDropout(config.dropout),
            ]
            before = size
        self.deep = nn.Sequential(*layers)
        self.over_arch = OverArch(before, [], num_tasks=inputs.num_tasks)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, T], float32."""
        inputs_BN = torch.cat([self.sparse_arch(batch.sparse), batch.dense_BF], dim=1)
        logits_BT: Tensor = self.over_arch(self.deep(inputs_BN))
        return logits_BT


class _AttendedVectors(FeatureVectors):
    """Vectors of the features, those of histories made with their targets' help."""

    def __init__(self, inputs: ModelInputs, config: DinConfig) -> None:
        super().__init__(inputs, config.sequence_pooling, None)
        self.target_of = config.target_of(inputs)
        self.first = MeanSequencePooling()  # of one id: its own vector
        for feature, index in self.pooling_of.items():
            table = inputs.table_of(feature)
            if inputs.lists.intersection(table.features) <= self.target_of.keys():
                self.sequence_poolings[index] = self.first  # nothing is left there to attend to
        sizes, kind = config.attention_layer_sizes, config.activation
        self.attentions = nn.ModuleList(
            TargetAttention(inputs.table_of(history).embedding_dim, sizes, kind) for history in self.target_of
        )

    def forward(
        self,
        sparse: KeyedJaggedTensor,
        pooled: KeyedTensor | None,
        sequences: dict[str, JaggedTensor] | None,
    ) -> Tensor:
        found, kept = looked_up(self.tables, sparse, pooled, sequences)
        targets = {
            name: found[name] if name in found else self.first(kept[name])
            for name in set(self.target_of.values())
        }
        for attention, (history, target) in zip(self.attentions, self.target_of.items(), strict=True):
            found[history] = attention(kept.pop(history), targets[target])
        return self.joined(found, kept)
