"""XXH64 of short texts, as Spark's `xxhash64` computes it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

SPARK_SEED = 42
"""The seed of Spark's `xxhash64`."""


def xxh64(texts: pa.Array, prefix: str = "") -> NDArray[np.int64]:
    """Return the signed XXH64 (seed 42) of each text in UTF-8, with a prefix before it.

    Args:
        texts: Arrow array of text, without nulls.
        prefix: laid before each text.

    Source: https://github.com/Cyan4973/xxHash
    """
    start = prefix.encode()
    digests = [xxhash.xxh64_intdigest(start + text.encode(), seed=SPARK_SEED) for text in texts.to_pylist()]
    return np.array(digests, dtype=np.uint64).view(np.int64)
