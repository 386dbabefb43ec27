"""Faults of the machine around a run (Java, Spark, installed packages), and words of foreign errors."""

from __future__ import annotations

import traceback

from sharding.errors import ShardrecError, UserError

_LONGEST_LINE = 400


class EnvironmentFault(UserError):  # noqa: N818 - EnvironmentError is a builtin with another meaning
    """Something that must be installed or started on this machine is missing or too old."""


def first_line(text: str) -> str:
    """Return the first line of a foreign error's text that says something; empty where there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # py4j puts its own sentence above the error that it passes on.
    useful = [line for line in lines if not line.startswith("An error occurred while calling")]
    return (useful or lines or [""])[0].removeprefix(": ")[:_LONGEST_LINE]


def unexpected(error: Exception, *, debug: bool) -> ShardrecError:
    """Return an error that is not ours in the form of ours, with the place that a bug report needs.

    Args:
        error: as it was caught.
        debug: whether its traceback is shown.
    """
    line = first_line(str(error))
    text = f": {line}" if line else ""
    frames = traceback.extract_tb(error.__traceback__)
    return ShardrecError(
        f"unexpected error: {type(error).__name__}{text}",
        where=f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "",
        fixes=[
            *(["shardrec doctor says what is missing or broken"] if isinstance(error, ImportError) else []),
            *([] if debug else ["run again with --debug for the traceback"]),
        ],
    )
