"""Feature ops on ids: `Tokens`, one or a list per row."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, WithJsonSchema

from trainer.features.hashing import xxh64
from trainer.features.registry import Example, feature_op
from trainer.features.values import Codes, Tokens, spans

UNBOUNDED = 2**62
"""Buckets of `hash: unbounded`: ids beyond any table, for tables that give ids rows of their own."""

NumBuckets = Annotated[
    int,
    BeforeValidator(lambda value: UNBOUNDED if value == "unbounded" else value),
    Field(ge=1, le=UNBOUNDED),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": UNBOUNDED}, {"const": "unbounded"}]}
    ),
]

_BETWEEN_WORDS = r"[^\p{L}\p{M}\p{N}_]+"


@feature_op(
    "token",
    name="fill",
    examples=(Example([{"fill": "none"}, "vocabulary"], train=["b", None, "b", "a"], gives=[2, 4, 2, 3]),),
)
def fill_token(x: Tokens, value: str | int) -> Tokens:
    """Put a token where the value is missing, so that it becomes a value of the vocabulary."""
    values = pa.concat_arrays([x.texts(), pa.array([str(value)], pa.string())])
    return replace(x, values=values, codes=np.where(x.missing, len(x.values), x.codes))


@feature_op(
    "token",
    gives="list",
    examples=(
        Example(
            [{"split": "|"}, "vocabulary"],
            train=["Drama|War", "Drama", None, "War|Drama"],
            gives=[[2, 3], [2], [], [3, 2]],
        ),
    ),
)
def split(x: Tokens, delimiter: Annotated[str, Field(min_length=1)]) -> Tokens:
    """Cut a text such as `Action|Comedy` into a list of tokens."""
    return x.split(lambda texts: pc.split_pattern(texts, delimiter))


@feature_op(
    "token", examples=(Example(["lower", "vocabulary"], train=["RED", "Red", "b", None], gives=[2, 2, 3, 0]),)
)
def lower(x: Tokens) -> Tokens:
    """Write the text in lower case."""
    return x.mapped(pc.utf8_lower)


@feature_op(
    "token",
    gives="list",
    examples=(
        Example(
            ["words", "vocabulary"],
            train=["The red car", "A RED bus: red!", None, "bus"],
            gives=[[6, 2, 5], [4, 2, 3, 2], [], [3]],
        ),
        Example(
            ["words", {"hash": 1000}],
            train=["Red, red.", "red", "RED!", None],
            gives=[[647, 647], [647], [647], []],
        ),
    ),
)
def words(x: Tokens) -> Tokens:
    """Cut a text into its words in lower case: letters, digits and underscores of any script."""
    return x.split(lambda texts: pc.split_pattern_regex(pc.utf8_lower(texts), _BETWEEN_WORDS))


@feature_op(
    "token",
    examples=(
        Example(
            [{"split": "|"}, {"truncate": 2}, "vocabulary"],
            train=["a|b|c", "a", "b|a", None],
            gives=[[2, 3], [2], [3, 2], []],
        ),
        Example(
            [{"split": "|"}, {"truncate": {"max_length": 2, "keep": "last"}}, "vocabulary"],
            train=["a|b|c", "c", "b|c", None],
            gives=[[3, 2], [2], [3, 2], []],
        ),
    ),
)
def truncate(
    x: Tokens, max_length: Annotated[int, Field(ge=1)], keep: Literal["first", "last"] = "first"
) -> Tokens:
    """Keep the first or the last tokens of a list, not counting missing ones."""
    x = x.compacted()
    if x.offsets is None:
        return x
    kept = np.minimum(np.diff(x.offsets), max_length)
    starts = x.offsets[:-1] if keep == "first" else x.offsets[1:] - kept
    offsets, places = spans(starts, kept)
    return Tokens(x.values, x.codes[places], offsets)


@feature_op(
    "token",
    gives="ids",
    examples=(
        Example("vocabulary", train=["b", "a", "b", None], gives=[2, 3, 2, 0]),
        Example(
            {"vocabulary": {"min_count": 2}},
            train=["b", "a", "b", "c"],
            rows=["b", "a", "new"],
            gives=[2, 1, 1],
        ),
        Example(
            {"vocabulary": {"oov_buckets": 4}},
            train=["b", "a", "b", None],
            rows=["b", "a", "new", "newer"],
            gives=[5, 6, 2, 4],
        ),
        Example(
            {"vocabulary": {"missing": "most_frequent"}},
            train=["b", "a", "b", None],
            rows=[None, "a", "new"],
            gives=[2, 3, 1],
        ),
    ),
)
def vocabulary(
    x: Tokens,
    min_count: Annotated[int, Field(ge=1)] = 1,  # noqa: ARG001 - read where the vocabulary is fitted
    max_size: Annotated[int | None, Field(ge=1)] = None,  # noqa: ARG001
    oov_buckets: Annotated[int, Field(ge=1)] = 1,  # noqa: ARG001
    missing: Literal["padding", "most_frequent"] = "padding",  # noqa: ARG001
    joint: bool = False,  # noqa: ARG001
) -> Tokens:
    """Number the values of the training rows from 2, most frequent first; missing is 0, unseen ones are 1.

    Values seen fewer than `min_count` times, or beyond the `max_size` most frequent, count as unseen. Ties
    are broken by the value itself. With `oov_buckets`, unseen values are dealt over the ids from 1 on by
    XXH64(seed 42), and the most frequent value has the id `oov_buckets` + 1. A `missing` value is padding, or
    becomes the most frequent value (refused for lists, which leave out what is missing in them); `fill`
    before `vocabulary` makes it a value of its own, also inside lists. `joint` counts the values of every
    feature that shares this table, not only those of the feature that owns it.
    """
    # The ids come from the fitted vocabulary (`vocabularies.py`), so tokens pass through here as they are.
    return x


@feature_op(
    "token",
    gives="ids",
    examples=(
        Example({"hash": 1000}, train=["red", None, "red", "blue"], gives=[647, 0, 647, 407]),
        Example({"hash": "unbounded"}, train=["red", None], gives=[1285781943854478647, 0]),
    ),
)
def hash(x: Tokens, num_buckets: NumBuckets, seed: int = 0) -> Codes:
    """Take XXH64(seed 42) of the UTF-8 text `<seed>:<token>` modulo `num_buckets`, plus 1; missing is 0.

    `unbounded` stands for 2^62 buckets: ids of values that no vocabulary knows beforehand. Their table needs
    `tables.<glob>.ids`, which gives each id a row of its own.
    """
    # numpy's remainder has the sign of the divisor; 0 stays free for padding.
    buckets = xxh64(x.texts(), f"{seed}:") % num_buckets + 1
    return np.append(buckets, 0)[x.codes]
