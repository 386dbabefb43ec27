"""Mult-VAE, a variational autoencoder with a multinomial likelihood."""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.errors import ConfigError
from trainer.losses.ranking import Objective
from trainer.modules.item_autoencoder import AutoencoderSection, ItemAutoencoder, with_one
from trainer.modules.item_model import Examples
from trainer.modules.lookup import Found
from trainer.modules.row_noise import row_normal
from trainer.registry import ModelInputs, register_model

_NOISE_STREAM = 2


class MultVaeConfig(AutoencoderSection):
    """Config keys of `mult_vae`; the widths of its tables follow from `hidden_layer_sizes`."""

    objective: Objective = "softmax"
    """The multinomial likelihood is that of `softmax`."""
    hidden_layer_sizes: list[PositiveInt] = Field(default=[600], min_length=1)
    """Hidden layers between the items and the latent vector, and backwards between it and the scores."""
    latent_dim: int = Field(default=200, ge=1)
    """Width of the latent vector."""
    kl_weight: float = Field(default=0.2, ge=0)
    """Weight of the KL divergence (beta) after annealing."""
    kl_anneal_steps: int = Field(default=0, ge=0)
    """Steps over which that weight rises from 0."""

    def hidden_columns(self) -> tuple[int, int]:
        """Return the first hidden layer's width twice: the network is symmetric."""
        return self.hidden_layer_sizes[0], self.hidden_layer_sizes[0]

    def completed(self, inputs: ModelInputs) -> ModelInputs:
        """Return the inputs with a table for the output beside that of the input."""
        if self.objective != "softmax":
            raise ConfigError(
                "the likelihood of this model is multinomial",
                where="model.objective",
                got=self.objective,
                allowed=["softmax"],
            )
        return super().completed(inputs)


@register_model(
    "mult_vae", config=MultVaeConfig, task="retrieval", source="Liang et al. 2018, arXiv:1802.05814"
)
class MultVAE(ItemAutoencoder):
    """A distribution over latent vectors for each user's items, and the items as draws given one of them.

    The loss is the negative ELBO, with the KL divergence weighed by `kl_weight`. In evaluation the latent
    vector is the mean.

    Args:
        inputs: features and tables, completed by the config.
        config: the model's config section.

    Source: Liang et al. 2018, arXiv:1802.05814, equations 2, 6 and 7, and section 2.2.2 (annealing).
    """

    steps_1: Tensor

    def __init__(self, inputs: ModelInputs, config: MultVaeConfig) -> None:
        super().__init__(inputs, config)
        sizes, latent = config.hidden_layer_sizes, config.latent_dim
        self.input_bias_H = nn.Parameter(torch.zeros(sizes[0]))
        self.encoder = _tanh_layers(sizes)
        self.latent = nn.Linear(sizes[-1], 2 * latent)
        self.decoder = _tanh_layers([latent, *reversed(sizes)])
        self.kl_weight, self.anneal_steps = config.kl_weight, config.kl_anneal_steps
        # Of training; saved, so that annealing goes on where a killed run was.
        self.register_buffer("steps_1", torch.zeros(1))

    def queries(self, found: Found, batch: Batch, examples: Examples | None) -> Tensor:
        """Return the last hidden layer of each row, and a 1 for the bias."""
        summed_BH = found[self.item_feature]
        assert isinstance(summed_BH, Tensor)
        length_B1 = batch.sparse[self.item_feature].lengths().clamp(min=1).unsqueeze(1)
        # Of a vector of zeros and ones of length 1: each item is divided by the root of their number.
        input_BH = summed_BH * length_B1.rsqrt() * self.scale(batch, examples)
        hidden_BH = self.encoder(torch.tanh(input_BH + self.input_bias_H))
        mean_BZ, log_variance_BZ = self.latent(hidden_BH).float().chunk(2, dim=1)
        latent_BZ = mean_BZ
        if examples is not None:
            noise_BZ = row_normal(batch.rows_B, mean_BZ.shape[1], _NOISE_STREAM)
            latent_BZ = mean_BZ + noise_BZ * torch.exp(0.5 * log_variance_BZ)
            variance_BZ = torch.exp(log_variance_BZ)
            kl_B = 0.5 * (variance_BZ + mean_BZ.square() - 1 - log_variance_BZ).sum(dim=1)
            examples.penalties.append(self._kl_weight_now() * kl_B * (examples.targets.lengths() > 0))
        return with_one(self.decoder(latent_BZ).float())

    def _kl_weight_now(self) -> Tensor:
        share_1 = self.steps_1 / self.anneal_steps if self.anneal_steps else torch.ones_like(self.steps_1)
        if self.parts_left <= 1:
            self.steps_1 += 1
        return self.kl_weight * share_1.clamp(max=1.0)


def _tanh_layers(sizes: list[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers)
