"""xDeepFM."""

from __future__ import annotations

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.modules.arches import DeepSection, OverArch
from trainer.modules.cin import CompressedInteraction
from trainer.modules.field_arch import FieldArch, FieldModelSection
from trainer.registry import ModelInputs, register_model


class XDeepFmConfig(FieldModelSection, DeepSection):
    """Config keys of `xdeep_fm`."""

    cin_layer_sizes: list[PositiveInt] = Field(default=[16, 16], min_length=1)
    """Feature maps of each layer of the compressed interaction network."""


@register_model("xdeep_fm", config=XDeepFmConfig, task="ctr", source="Lian et al. 2018, arXiv:1803.05170")
class XDeepFM(nn.Module):
    """A linear term, a compressed interaction network and a deep network, added up.

    The activation of the feature maps is the identity, with which the paper's experiments were best.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Lian et al. 2018, arXiv:1803.05170, section 3.2.
    """

    def __init__(self, inputs: ModelInputs, config: XDeepFmConfig) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.field_arch = FieldArch(inputs, config)
        fields = self.field_arch.num_fields
        self.cin = CompressedInteraction(fields, config.cin_layer_sizes)
        self.cin_logit = nn.Linear(self.cin.out_features, 1, bias=False)
        self.deep = OverArch(fields * dim, config.deep_layer_sizes, config.dropout, norm=config.norm)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, 1], float32."""
        fields_BFD, first_order_B1 = self.field_arch(batch)
        cin_B1 = self.cin_logit(self.cin(fields_BFD))
        logits_BT: Tensor = first_order_B1 + cin_B1.float() + self.deep(fields_BFD.flatten(1))
        return logits_BT
