"""Config section `mlflow`: where a run is shown beside others."""

from __future__ import annotations

from pydantic import Field

from trainer.config.base import Section


class MlflowConfig(Section):
    """An MLflow run of each run: parameters, metrics while it trains and of evaluations, plan and report."""

    experiment: str = Field(min_length=1)
    """Its path, such as `/Shared/ads`; made where it is missing."""
    run_name: str | None = Field(default=None, min_length=1)
    """Default the config's `name`."""
    tracking_uri: str | None = Field(default=None, min_length=1)
    """Default what `MLFLOW_TRACKING_URI` names, on Databricks the workspace."""
    registered_model: str | None = Field(default=None, pattern=r"^[^./:\s]+(\.[^./:\s]+\.[^./:\s]+)?$")
    """Model of which a run that trained to its end becomes a version: in Unity Catalog
    `catalog.schema.model`. The version holds the run folder with the checkpoint to use, which the driver
    uploads."""
