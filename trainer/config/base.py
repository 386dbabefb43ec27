"""The base of every config section: unknown keys and wrong types are errors, values are immutable."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

LARGEST_SEED = 2**31 - 1
"""Every library that takes a seed takes this one."""


class Section(BaseModel):
    """A strict section of the run config.

    Nothing is converted but a whole number where a number may have a fraction: `"10"`, `true` and `1e1` are
    not the integer 10. A list for a tuple needs `Field(strict=False)`.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
