"""DHEN, the deep and hierarchical ensemble network."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.config.base import Section
from trainer.errors import ConfigError
from trainer.modules.arches import OverArch
from trainer.modules.dhen_layer import DhenLayer, EnsembleName, LayerNormName
from trainer.modules.interactions import InteractionName, InteractionsConfig, build_interaction
from trainer.modules.vector_model import VectorModel, VectorModelSection
from trainer.registry import ModelInputs, register_model


class DhenLayerConfig(Section):
    """One layer; a key left out takes the model's value."""

    modules: list[InteractionName] | None = Field(default=None, min_length=1)
    num_outputs: PositiveInt | list[PositiveInt] | None = None
    ensemble: EnsembleName | None = None


@dataclass(frozen=True)
class LayerPlan:
    """One layer with every key resolved.

    Attributes:
        modules: k names.
        num_outputs: l of each module.
        ensemble: how to join them.
    """

    modules: tuple[InteractionName, ...]
    num_outputs: tuple[int, ...]
    ensemble: EnsembleName

    @property
    def width(self) -> int:
        """Return the number of vectors that the layer gives."""
        return sum(self.num_outputs) if self.ensemble == "concat" else self.num_outputs[0]


class DhenConfig(VectorModelSection):
    """Config keys of `dhen`."""

    num_layers: int = Field(default=2, ge=1)
    """Layers; where `layers` is given, its length."""
    modules: list[InteractionName] = Field(default=["dot", "linear"], min_length=1)
    """Interaction modules of each layer: `dot`, `attention`, `convolution`, `linear`, `cross`."""
    num_outputs: PositiveInt | list[PositiveInt] = 8
    """Vectors (l) that each module gives; a list has one number per module."""
    ensemble: EnsembleName = "concat"
    """How a layer joins its modules: `concat` (l adds up), `sum`, or `weighted_sum` with learned weights."""
    norm: LayerNormName = "layer"
    """Of each layer's vectors. Under `none` they keep their length, in which embeddings say how sure they
    are; few layers do without a norm."""
    layers: list[DhenLayerConfig] | None = Field(default=None, min_length=1)
    """Layer by layer, where layers differ; a key left out of a layer takes the model's value."""
    interactions: InteractionsConfig = InteractionsConfig()
    """Settings of the interaction modules."""
    over_arch_layer_sizes: list[PositiveInt] = Field(default=[64])
    """Hidden layers over the last layer's vectors; the logit follows by itself."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the over arch's hidden units dropped in training."""

    @model_validator(mode="after")
    def _consistent(self) -> DhenConfig:
        plans = self.layer_plans()
        heads = self.interactions.attention.num_heads
        if any("attention" in plan.modules for plan in plans) and self.embedding_dim % heads:
            raise ConfigError(
                "the attention heads must divide embedding_dim",
                where="model.interactions.attention.num_heads",
                got=heads,
                allowed=[n for n in range(1, self.embedding_dim + 1) if self.embedding_dim % n == 0],
            )
        return self

    def layer_plans(self) -> list[LayerPlan]:
        """Return every layer with all its keys.

        Raises:
            ConfigError: `num_layers` contradicts `layers`, or `num_outputs` does not fit the modules.
        """
        if self.layers is None:
            return [self._plan(DhenLayerConfig(), "model")] * self.num_layers
        if "num_layers" in self.model_fields_set and self.num_layers != len(self.layers):
            raise ConfigError(
                "`num_layers` contradicts `layers`",
                where="model.num_layers",
                got=self.num_layers,
                allowed=len(self.layers),
                fixes=["leave out `num_layers`: `layers` has one entry per layer"],
            )
        return [self._plan(layer, f"model.layers.{index}") for index, layer in enumerate(self.layers)]

    def _plan(self, layer: DhenLayerConfig, where: str) -> LayerPlan:
        modules = tuple(layer.modules or self.modules)
        outputs = layer.num_outputs or self.num_outputs
        ensemble = layer.ensemble or self.ensemble
        counts = tuple(outputs) if isinstance(outputs, list) else (outputs,) * len(modules)
        if len(counts) != len(modules):
            raise ConfigError(
                "`num_outputs` as a list needs one number per module",
                where=f"{where}.num_outputs",
                got=list(counts),
                allowed=f"{len(modules)} numbers, for {', '.join(modules)}",
            )
        if ensemble != "concat" and len(set(counts)) > 1:
            raise ConfigError(
                f"ensemble `{ensemble}` adds the modules up, so all must give the same number of vectors",
                where=f"{where}.num_outputs",
                got=list(counts),
                fixes=[f"give one number: {max(counts)}", "use ensemble: concat"],
            )
        return LayerPlan(modules, counts, ensemble)


@register_model(
    "dhen", config=DhenConfig, task="ctr", source="Zhang et al. 2022, arXiv:2203.11014", several_tasks=True
)
class DHEN(VectorModel):
    """Layers that each ensemble several kinds of feature interaction, stacked to a hierarchy.

    Feature processing gives X_0 [B, m, d]: the dense features through a multi-layer perceptron to
    `num_dense_vectors` vectors, and one pooled vector per feature. Every layer is
    `X_(n+1) = Norm(Ensemble_k(Interaction_k(X_n)) + ShortCut(X_n))`. The vectors of the last layer, side by
    side, pass the over arch to the logit.

    Where the paper is silent this was chosen: d is `embedding_dim`, and a table of another width gets a
    linear map to it; the dense vectors come first in X_0, and there are none without dense features; the
    default modules are the pair of the paper's depth experiments, DLRM-like and linear.
    `trainer.modules.interactions` says what was chosen in each module.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Zhang et al. 2022, arXiv:2203.11014.
    """

    def __init__(self, inputs: ModelInputs, config: DhenConfig) -> None:
        super().__init__(inputs, config)
        count, dim = self.num_vectors, self.dim
        layers = []
        for plan in config.layer_plans():
            layers.append(_layer(plan, count, dim, config))
            count = plan.width
        self.layers = nn.Sequential(*layers)
        self.over_arch = OverArch(
            count * dim, config.over_arch_layer_sizes, config.dropout, num_tasks=inputs.num_tasks
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, T], float32."""
        logits_BT: Tensor = self.over_arch(self.layers(self.vectors(batch)).flatten(1))
        return logits_BT


def _layer(plan: LayerPlan, num_inputs: int, dim: int, config: DhenConfig) -> DhenLayer:
    interactions = [
        build_interaction(name, num_inputs, dim, num_outputs, config.interactions)
        for name, num_outputs in zip(plan.modules, plan.num_outputs, strict=True)
    ]
    return DhenLayer(interactions, plan.ensemble, num_inputs, plan.width, dim, config.norm)
