"""Count, mean, spread and range of numbers, added up from the tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.features.values import Floats

# Sums of floats depend in their last digits on the order of the rows. Rounding to this many digits of the
# standard deviation (float32 holds seven) makes the spec the same for every number of partitions.
_DIGITS = 7


@dataclass
class Moments:
    """Count, mean, sum of squared differences from it, least and largest of some values."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    min: float = math.inf
    max: float = -math.inf

    @classmethod
    def of(cls, values: Floats) -> Moments:
        """Return those of finite values."""
        if not len(values):
            return cls()
        mean = float(values.mean())
        squares = float(((values - mean) ** 2).sum())
        return cls(len(values), mean, squares, float(values.min()), float(values.max()))

    def add(self, other: Moments) -> None:
        """Add those of other values.

        Source: Chan, Golub and LeVeque 1983, Algorithms for Computing the Sample Variance.
        """
        if other.count == 0:
            return
        count, apart = self.count + other.count, other.mean - self.mean
        self.squares += other.squares + apart * apart * self.count * other.count / count
        self.mean += apart * other.count / count
        self.count = count
        self.min, self.max = min(self.min, other.min), max(self.max, other.max)

    @property
    def std(self) -> float:
        """Return the population's standard deviation."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    def rounded(self) -> tuple[float, float]:
        """Return mean and standard deviation in digits that do not depend on the order of the values."""
        std = self.std
        scale = std or abs(self.mean) or 1.0
        digits = _DIGITS - 1 - math.floor(math.log10(scale))
        # Of one value alone rounding would make another one, and `min_max` the whole range of the two.
        mean = min(max(round(self.mean, digits), self.min), self.max)
        return mean, round(std, digits)
