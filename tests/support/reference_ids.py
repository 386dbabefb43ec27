"""Ids in buckets as plain Python says it: dictionaries and sorted lists, one id at a time."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

from sharding.id_buckets import FIRST_SLOT, OOV_ROW, IdPolicy


@dataclass
class _Entry:
    id: int
    count: int
    seen: int


@dataclass
class ReferenceBuckets:
    """The rule for every bucket, in words of a dictionary."""

    policy: IdPolicy
    buckets: int
    slots: int
    owners: dict[int, _Entry] = field(default_factory=dict)  # by row
    candidates: dict[int, list[_Entry]] = field(default_factory=dict)  # by bucket
    evicted: int = 0

    def bucket_of(self, id_: int) -> int:
        mask = (1 << 64) - 1
        z = id_ * 0x9E3779B97F4A7C15 & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        z ^= z >> 31
        return (z - (1 << 64) if z >> 63 else z) % self.buckets

    def row_of(self, id_: int, step: int) -> int:
        found = [row for row, owner in self.owners.items() if owner.id == id_ and not self._old(owner, step)]
        return found[0] if found else OOV_ROW

    def update(self, ids: list[int], step: int) -> set[int]:
        """Return the rows with a new owner."""
        by_bucket: dict[int, Counter[int]] = {}
        for id_ in ids:
            by_bucket.setdefault(self.bucket_of(id_), Counter())[id_] += 1
        return {row for bucket, counts in by_bucket.items() for row in self._update(bucket, counts, step)}

    def held(self, step: int) -> tuple[int, int]:
        """Return how many owners and how many candidates there are."""
        waiting = [c for found in self.candidates.values() for c in found]
        owners, candidates = (
            sum(not self._old(e, step) for e in held) for held in (self.owners.values(), waiting)
        )
        return owners, candidates

    def _update(self, bucket: int, counts: Counter[int], step: int) -> list[int]:
        rows = range(FIRST_SLOT + bucket * self.slots, FIRST_SLOT + (bucket + 1) * self.slots)
        for row in rows:
            if row in self.owners and self._old(self.owners[row], step):
                del self.owners[row]
                self.evicted += 1
        waiting = [c for c in self.candidates.get(bucket, []) if not self._old(c, step)]
        owned = {self.owners[row].id: self.owners[row] for row in rows if row in self.owners}
        for id_ in owned.keys() & counts.keys():
            owned[id_].count += counts[id_]
            owned[id_].seen = step
        before = {c.id: c.count for c in waiting}
        new = [_Entry(i, n + before.get(i, 0), step) for i, n in counts.items() if i not in owned]
        new.sort(key=lambda c: (-c.count, c.id))
        changed = []
        worst_first = sorted(rows, key=lambda row: (self._worth(self.owners.get(row), step), row))
        rejected = []
        for place, candidate in enumerate(new):
            row = worst_first[place] if place < len(worst_first) else None
            enough = candidate.count >= self.policy.min_count
            if row is not None and enough and self._beats(candidate, self.owners.get(row), step):
                self.evicted += row in self.owners
                self.owners[row] = candidate
                changed.append(row)
            else:
                rejected.append(candidate)
        rest = [c for c in waiting if c.id not in counts]
        self.candidates[bucket] = (rejected + rest)[: self.slots]
        return changed

    def _beats(self, newcomer: _Entry, owner: _Entry | None, step: int) -> bool:
        if owner is None:
            return True
        if owner.seen == step or self.policy.evict == "ttl":
            return False
        return self._worth(newcomer, step, newcomer=True) > self._worth(owner, step)

    def _worth(self, entry: _Entry | None, step: int, newcomer: bool = False) -> float:
        if entry is None:
            return -math.inf
        if entry.seen == step and not newcomer:
            return math.inf
        if self.policy.evict == "lfu":
            return entry.count
        if self.policy.evict == "lru":
            return entry.seen
        if self.policy.evict == "ttl":
            return math.inf
        age = step - entry.seen + 1
        exponent = self.policy.decay_exponent
        if exponent == int(exponent):
            return Fraction(entry.count, age ** int(exponent))  # type: ignore[return-value]
        return entry.count / age**exponent

    def _old(self, entry: _Entry, step: int) -> bool:
        return self.policy.ttl_steps is not None and step - entry.seen > self.policy.ttl_steps
