"""Config section `train.guard`: what a run does when it does not learn, or its data look wrong."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.config.base import Section

GuardCode = Literal[
    "label_constant",
    "label_shift",
    "weights_zero",
    "feature_not_finite",
    "feature_constant",
    "feature_scale",
    "feature_one_id",
    "feature_missing",
    "feature_out_of_vocabulary",
    "feature_is_label",
    "loss_above_prior",
    "loss_exploding",
    "ne_above_1",
    "auc_near_half",
    "auc_below_half",
    "auc_near_1",
    "r2_below_0",
    "ranking_at_chance",
    "calibration_off",
    "overfitting",
    "table_dead",
    "table_exploding",
    "table_collapsed",
    "layer_dead",
    "units_dead",
]


class GuardConfig(Section):
    """Whether the run learns, looked at while it trains; see the page on the training guard."""

    action: Literal["warn", "stop", "off"] = "warn"
    """`warn` tells what is found; `stop` also saves a checkpoint and ends the run at the first grave finding;
    `off` looks at nothing."""
    learning_steps: int = Field(default=500, ge=1)
    """Steps after warm-up that a run has to get below the loss of no model. Evaluations are judged from
    then on, and the one after the last step always is; of a run that early stopping ends sooner, the best."""
    gap_evaluations: int = Field(default=2, ge=1)
    """Evaluations in a row whose log loss rises while that of training falls, before this is over-fitting."""
    ignore: list[GuardCode] = Field(default_factory=list)
    """Codes of findings that are known and accepted."""
