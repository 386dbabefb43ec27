"""MMoE."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.modules.experts import Experts, ExpertSection, Gate, InputArch, Towers
from trainer.registry import ModelInputs, register_model


class MmoeConfig(ExpertSection):
    """Config keys of `mmoe`."""

    num_experts: int = Field(default=4, ge=1)
    """Experts that all tasks share."""


@register_model(
    "mmoe",
    config=MmoeConfig,
    task="multi_task",
    source="Ma et al. 2018, Multi-gate Mixture-of-Experts, KDD",
    several_tasks=True,
)
class MMoE(nn.Module):
    """Shared experts over all inputs, mixed for each task by a gate of its own.

    The input x holds the feature vectors, each as wide as its table, and the dense features. The logit of a
    task t is `tower_t(sum_e softmax(W_t x)_e expert_e(x))`.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Ma et al. 2018, Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts, KDD, section 4.2.
    """

    def __init__(self, inputs: ModelInputs, config: MmoeConfig) -> None:
        super().__init__()
        self.input_arch = InputArch(inputs, config)
        width = self.input_arch.width
        self.experts = Experts(width, config.num_experts, config)
        self.gates = nn.ModuleList(Gate(width, config.num_experts) for _ in inputs.tasks)
        self.towers = Towers(config, inputs.num_tasks)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, T], float32."""
        x_BN = self.input_arch(batch)
        experts_BED = self.experts(x_BN)
        logits_BT: Tensor = self.towers([gate(x_BN, experts_BED) for gate in self.gates])
        return logits_BT
