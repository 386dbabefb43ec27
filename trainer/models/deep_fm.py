"""DeepFM."""

from __future__ import annotations

from torch import Tensor, nn

from trainer.batch import Batch
from trainer.modules.arches import DeepSection, OverArch
from trainer.modules.field_arch import FieldArch, FieldModelSection
from trainer.modules.fm import fm_pairs
from trainer.registry import ModelInputs, register_model


class DeepFmConfig(FieldModelSection, DeepSection):
    """Config keys of `deep_fm`."""


@register_model("deep_fm", config=DeepFmConfig, task="ctr", source="Guo et al. 2017, arXiv:1703.04247")
class DeepFM(nn.Module):
    """A factorization machine and a deep network over the same vectors, added up.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Guo et al. 2017, arXiv:1703.04247, section 2.1.
    """

    def __init__(self, inputs: ModelInputs, config: DeepFmConfig) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.field_arch = FieldArch(inputs, config)
        width = self.field_arch.num_fields * dim
        self.deep = OverArch(width, config.deep_layer_sizes, config.dropout, norm=config.norm)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, 1], float32."""
        fields_BFD, first_order_B1 = self.field_arch(batch)
        fm_B1 = first_order_B1 + fm_pairs(fields_BFD.float())
        logits_BT: Tensor = fm_B1 + self.deep(fields_BFD.flatten(1))
        return logits_BT
