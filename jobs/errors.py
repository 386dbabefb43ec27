"""Faults of the machine around a run: Java, Spark, installed packages."""

from __future__ import annotations

from sharding.errors import UserError


class EnvironmentFault(UserError):  # noqa: N818 - EnvironmentError is a builtin with another meaning
    """Something that must be installed or started on this machine is missing or too old."""
