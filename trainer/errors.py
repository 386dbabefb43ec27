"""Errors of configs, data sets, checkpoints and training; see `sharding.errors` for the form."""

from __future__ import annotations

from sharding.errors import PlanError, ShardrecError, UserError

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DamagedError",
    "DataError",
    "GuardError",
    "PlanError",
    "ShardrecError",
    "SpecMismatchError",
    "StoreError",
    "TrainingError",
    "UserError",
]


class ConfigError(UserError):
    """A run config has an unknown key, a wrong value, or two values that contradict each other."""


class DataError(UserError):
    """A source or a data set is missing, empty, damaged, or holds values that cannot be used."""


class DamagedError(DataError):
    """Rows of a part file cannot be read: the file is missing, truncated, or has damaged bytes."""


class StoreError(DataError):
    """An object store cannot be reached, refuses access, or keeps failing."""


class SpecMismatchError(DataError):
    """A checkpoint or model meets a data set that another feature spec prepared."""


class CheckpointError(UserError):
    """A checkpoint is missing, incomplete, or belongs to another run."""


class GuardError(UserError):
    """A run does not learn, and its config says that it should stop then (`train.guard.action`)."""


class TrainingError(ShardrecError):
    """Training itself went wrong, for instance a loss that is not finite."""
