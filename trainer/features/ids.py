"""From tokens to ids: by vocabulary, by hash, or as the numbers that they are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from trainer.errors import DataError
from trainer.features.chains import id_op, raw_ids
from trainer.features.hashing import xxh64
from trainer.features.raw_values import with_nulls_uncovered
from trainer.features.registry import OPS
from trainer.features.values import Codes, Tokens
from trainer.features.vocabularies import UNKNOWN, Vocabulary
from trainer.schema import OUT_OF_VOCABULARY_ID, PADDING_ID, Feature, FittedOp


def oov_buckets(op: FittedOp) -> int:
    """Return how many ids from 1 on a `vocabulary` op keeps for unseen values."""
    return int(op.params.get("oov_buckets", 1))


def first_id(op: FittedOp) -> int:
    """Return the id of a vocabulary's most frequent value."""
    return OUT_OF_VOCABULARY_ID + oov_buckets(op)


def numbered(feature: Feature, tokens: Tokens, vocabulary: Vocabulary | None) -> Codes:
    """Return the id of each token.

    Args:
        feature: fitted.
        tokens: M of them, before the op that makes ids.
        vocabulary: of the feature; None where it has none.

    Returns:
        int64 [M]; 0 for missing tokens.

    Raises:
        DataError: a token is no id, or one outside the table.
    """
    op = id_op(feature)
    if op is None:
        return _raw(feature, tokens)
    if op.name != "vocabulary":
        made: Codes = OPS["token", op.name].function(tokens, **op.params)
        return made
    assert vocabulary is not None, f"no vocabulary of {feature.name}"
    ids = vocabulary.ids_of(tokens.values)
    return by_place(
        op, tokens, np.where(ids == UNKNOWN, unseen_ids(op, tokens.values), ids), len(vocabulary.ids)
    )


def looked_up(op: FittedOp, numbers: pa.Array, vocabulary: Vocabulary) -> Codes:
    """Do what `numbered` does for a column of whole numbers and a vocabulary of such: value by value.

    Args:
        op: `vocabulary`, with one id for all unseen values.
        numbers: whole numbers, null where one is missing.
        vocabulary: of the feature.

    Returns:
        int64 [N].
    """
    missing = ~numbers.is_valid().to_numpy(zero_copy_only=False) if numbers.null_count else None
    plain = with_nulls_uncovered(numbers).cast(pa.int64()).to_numpy()
    ids = vocabulary.ids_of_numbers(plain, OUT_OF_VOCABULARY_ID)
    if missing is not None:
        np.putmask(ids, missing, _missing_id(op, len(vocabulary.ids)))
    return ids


def _missing_id(op: FittedOp, size: int) -> int:
    return first_id(op) if op.params.get("missing") == "most_frequent" and size > 0 else PADDING_ID


def by_place(op: FittedOp, tokens: Tokens, ids: Codes, size: int) -> Codes:
    """Return the ids of tokens by the ids of their `values`; missing ones as the `vocabulary` op says."""
    return np.append(ids, _missing_id(op, size))[tokens.codes]


def unseen_ids(op: FittedOp, values: pa.Array) -> Codes:
    """Return the ids that values would have if the vocabulary lacked them."""
    buckets = oov_buckets(op)
    if buckets == 1:
        return np.full(len(values), OUT_OF_VOCABULARY_ID, dtype=np.int64)
    texts = values if pa.types.is_string(values.type) else values.cast(pa.string())
    return xxh64(texts) % buckets + OUT_OF_VOCABULARY_ID


def _raw(feature: Feature, tokens: Tokens) -> Codes:
    limit = feature.num_embeddings or 0
    numbers, good = raw_ids(tokens)
    good &= numbers < limit
    used = tokens.codes[tokens.codes >= 0]
    if not good[used].all():
        wrong = tokens.texts()[int(used[~good[used]][0])].as_py()
        raise DataError(
            f"feature {feature.name!r} needs ids from 0 to {limit - 1}, a row holds {wrong}",
            where=f"column {feature.column!r}",
        )
    return np.append(numbers, PADDING_ID)[tokens.codes]
