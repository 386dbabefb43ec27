"""FM."""

from __future__ import annotations

from torch import Tensor, nn

from trainer.batch import Batch
from trainer.modules.field_arch import FieldArch, FieldModelSection
from trainer.modules.fm import fm_pairs
from trainer.registry import ModelInputs, register_model


class FmConfig(FieldModelSection):
    """Config keys of `fm`."""


@register_model("fm", config=FmConfig, task="ctr", source="Rendle 2010, Factorization Machines, ICDM")
class FM(nn.Module):
    """A weight for each feature and a dot product for each pair of features: a factorization machine.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Rendle 2010, Factorization Machines, equation 1. Cost: B * F * D.
    """

    def __init__(self, inputs: ModelInputs, config: FmConfig) -> None:
        super().__init__()
        self.field_arch = FieldArch(inputs, config)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, 1], float32."""
        fields_BFD, first_order_B1 = self.field_arch(batch)
        logits_BT: Tensor = first_order_B1 + fm_pairs(fields_BFD.float())
        return logits_BT
