"""PLE."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.modules.experts import Experts, ExpertSection, Gate, InputArch, Towers
from trainer.registry import ModelInputs, register_model


class PleConfig(ExpertSection):
    """Config keys of `ple`."""

    num_levels: int = Field(default=2, ge=1)
    """Extraction levels; one alone is CGC (Customized Gate Control)."""
    num_shared_experts: int = Field(default=2, ge=1)
    """Experts of each level that all tasks share."""
    num_task_experts: int = Field(default=2, ge=1)
    """Experts of each level that each task has for itself."""


@register_model(
    "ple",
    config=PleConfig,
    task="multi_task",
    source="Tang et al. 2020, Progressive Layered Extraction, RecSys",
    several_tasks=True,
)
class PLE(nn.Module):
    """Levels of shared experts and of experts for each task, mixed by gates; each level works on the last.

    The first level's input, for every task and for the shared experts, holds the feature vectors, each as
    wide as its table, and the dense features.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Tang et al. 2020, Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model
    for Personalized Recommendations, RecSys, sections 4.1 (CGC) and 4.2.
    """

    def __init__(self, inputs: ModelInputs, config: PleConfig) -> None:
        super().__init__()
        self.input_arch = InputArch(inputs, config)
        self.num_tasks = inputs.num_tasks
        widths = [self.input_arch.width] + [config.expert_layer_sizes[-1]] * (config.num_levels - 1)
        self.levels = nn.ModuleList(
            ExtractionLevel(width, self.num_tasks, config, last=number == config.num_levels)
            for number, width in enumerate(widths, start=1)
        )
        self.towers = Towers(config, self.num_tasks)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, T], float32."""
        x_BN = self.input_arch(batch)
        outputs = [x_BN] * (self.num_tasks + 1)
        for level in self.levels:
            outputs = level(outputs)
        logits_BT: Tensor = self.towers(outputs[: self.num_tasks])
        return logits_BT


class ExtractionLevel(nn.Module):
    """One level: a task's gate mixes the task's own and the shared experts, the shared gate all there are.

    Args:
        in_features: N.
        num_tasks: T.
        config: numbers and layers of the experts.
        last: whether no level follows, so that nothing is shared any more.
    """

    def __init__(self, in_features: int, num_tasks: int, config: PleConfig, *, last: bool) -> None:
        super().__init__()
        own, shared = config.num_task_experts, config.num_shared_experts
        self.task_experts = nn.ModuleList(Experts(in_features, own, config) for _ in range(num_tasks))
        self.shared_experts = Experts(in_features, shared, config)
        self.task_gates = nn.ModuleList(Gate(in_features, own + shared) for _ in range(num_tasks))
        self.shared_gate = None if last else Gate(in_features, num_tasks * own + shared)

    def forward(self, inputs_BN: list[Tensor]) -> list[Tensor]:
        """Return a vector [B, D] of each task and, unless the level is the last, the shared one.

        Args:
            inputs_BN: those of the level before, or T + 1 times the model's input.
        """
        *of_tasks, shared_BN = inputs_BN
        shared_BED = self.shared_experts(shared_BN)
        experts = [experts(x_BN) for experts, x_BN in zip(self.task_experts, of_tasks, strict=True)]
        outputs = [
            gate(x_BN, torch.cat([own_BED, shared_BED], dim=1))
            for gate, x_BN, own_BED in zip(self.task_gates, of_tasks, experts, strict=True)
        ]
        if self.shared_gate is None:
            return outputs
        return [*outputs, self.shared_gate(shared_BN, torch.cat([*experts, shared_BED], dim=1))]
