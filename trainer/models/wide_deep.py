"""Wide & Deep."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.errors import ConfigError
from trainer.modules.arches import DeepSection, OverArch
from trainer.modules.field_arch import FieldArch, FieldModelSection
from trainer.registry import ModelInputs, register_model


class WideDeepConfig(FieldModelSection, DeepSection):
    """Config keys of `wide_deep`."""

    wide_features: list[str] | None = Field(default=None, min_length=1)
    """Names or globs of the sparse features in the wide part, such as those made by `cross`; default all."""
    deep_features: list[str] | None = Field(default=None, min_length=1)
    """Names or globs of the sparse features in the deep part; default all."""

    def linear_features(self, inputs: ModelInputs) -> list[str]:
        """Return the features of the wide part."""
        return _matching(inputs.features, self.wide_features, "model.wide_features")

    def vector_features(self, inputs: ModelInputs) -> list[str]:
        """Return the features of the deep part."""
        return _matching(inputs.features, self.deep_features, "model.deep_features")

    def completed(self, inputs: ModelInputs) -> ModelInputs:
        """Return the inputs with a column group for each part that a table is in.

        Raises:
            ConfigError: a name or glob that no feature has, or a feature in neither part.
        """
        used = {*self.linear_features(inputs), *self.vector_features(inputs)}
        if unused := [name for name in inputs.features if name not in used]:
            raise ConfigError(
                "a feature is in neither part of the model",
                where="model.wide_features, model.deep_features",
                got=unused,
                fixes=[f"add `{unused[0]}` to one of them", "leave the feature out of `features`"],
            )
        return super().completed(inputs)


def _matching(features: Sequence[str], globs: Sequence[str] | None, where: str) -> list[str]:
    if globs is None:
        return list(features)
    for glob in globs:
        if not any(fnmatch.fnmatchcase(feature, glob) for feature in features):
            raise ConfigError("no sparse feature matches", where=where, got=glob, allowed=list(features))
    return [name for name in features if any(fnmatch.fnmatchcase(name, glob) for glob in globs)]


@register_model("wide_deep", config=WideDeepConfig, task="ctr", source="Cheng et al. 2016, arXiv:1606.07792")
class WideDeep(nn.Module):
    """A linear model that remembers, over crossed features above all, beside a deep network that generalises.

    The wide part has one weight for each id of its features and each dense feature; the deep part takes the
    vectors and the dense features. Crossed features are made by `cross` in `features.sparse`. Both parts
    learn by the run's optimizers, where the paper has FTRL for the wide part.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Cheng et al. 2016, arXiv:1606.07792, section 3.
    """

    def __init__(self, inputs: ModelInputs, config: WideDeepConfig) -> None:
        super().__init__()
        self.field_arch = FieldArch(inputs, config)
        width = self.field_arch.num_fields * config.embedding_dim
        self.deep = OverArch(width, config.deep_layer_sizes, config.dropout, norm=config.norm)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, 1], float32."""
        fields_BFD, wide_B1 = self.field_arch(batch)
        logits_BT: Tensor = wide_B1 + self.deep(fields_BFD.flatten(1))
        return logits_BT
