"""Forms of times that are no ISO 8601, such as Avazu's `14102100`: what `data.time_formats` may say."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

_DIRECTIVES = {
    "Y": "(?!0000)[0-9]{4}", "y": "[0-9]{2}", "m": "[0-9]{2}", "d": "[0-9]{2}",
    "H": "[0-9]{2}", "M": "[0-9]{2}", "S": "[0-9]{2}",
}  # fmt: skip
_ISO = "2004-05-06 07:08:09"
# Of two digits, as POSIX reads them.
_FIRST_OF_1900S = 69
_GUESSES = ("%Y%m%d", "%y%m%d%H", "%y%m%d", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S")
_GUESSED_YEARS = range(1990, 2100)


@dataclass(frozen=True)
class TimeFormat:
    """The form of a column's times.

    Attributes:
        text: directives of `strftime` that are numbers (`%Y` or `%y`, `%m`, `%d`, `%H`, `%M`, `%S`) and other
            characters; what is left out of the time of day is 0.

    Raises:
        ValueError: it is no such form, or could be mixed up with ISO 8601.
    """

    text: str

    def __post_init__(self) -> None:
        letters = self.letters
        date = {letter.lower() for letter in letters} >= {"y", "m", "d"} and not {"Y", "y"} <= set(letters)
        clock = [letter for letter in "HMS" if letter in letters]
        unknown = re.sub("%[YymdHMS]", "", self.text)
        if not date or clock != list("HMS")[: len(clock)] or len(set(letters)) < len(letters):
            raise ValueError(f"`{self.text}` names no time: it needs a year, a month and a day, `%Y%m%d`")
        if "%" in unknown or any(character.isdigit() for character in unknown):
            raise ValueError(f"`{self.text}` may hold %Y, %y, %m, %d, %H, %M, %S and no other digits")
        if self.iso(_ISO) not in (None, _ISO):
            raise ValueError(f"`{self.text}` cannot be told from ISO 8601, which is read as it is")

    @property
    def letters(self) -> list[str]:
        """Return the directives in their order, without `%`."""
        return re.findall("%([YymdHMS])", self.text)

    @cached_property
    def pattern(self) -> str:
        """Return the pattern of such a time, for Python and for Java, with a group for each directive."""
        parts = re.split("%([YymdHMS])", self.text)
        return "".join(
            f"({_DIRECTIVES[part]})" if n % 2 else re.sub(r"(\W)", r"\\\1", part)
            for n, part in enumerate(parts)
        )

    @property
    def width(self) -> int:
        """Return how many characters such a time has."""
        return len(datetime.datetime(2004, 5, 6).strftime(self.text))

    @property
    def short_year(self) -> int | None:
        """Return the number of the group with a year of two digits, from 1, if there is one."""
        return self.letters.index("y") + 1 if "y" in self.letters else None

    def rewriting(self, mark: str, century: str) -> str:
        """Return what makes ISO 8601 of the groups.

        Args:
            mark: before the number of a group: a backslash for Python, `$` for Java.
            century: of a year of two digits.
        """
        at = {letter: f"{mark}{n}" for n, letter in enumerate(self.letters, start=1)}
        year = at.get("Y") or century + at["y"]
        clock = ":".join(at.get(letter, "00") for letter in "HMS")
        return f"{year}-{at['m']}-{at['d']} {clock}"

    def iso(self, time: str) -> str | None:
        """Return a time of this form in ISO 8601, of which nothing says that it exists; None for others."""
        found = re.fullmatch(self.pattern, time)
        if found is None:
            return None
        short = self.short_year
        century = century_of(int(found.group(short))) if short is not None else ""
        return found.expand(self.rewriting("\\", century))


def century_of(year: int) -> str:
    """Return the first two digits of a year of two."""
    return "19" if year >= _FIRST_OF_1900S else "20"


def likely_format(numbers: Sequence[float]) -> str | None:
    """Return the form of which numbers may be dates of our days; None where nothing fits them all."""
    if not numbers or not all(number > 0 and float(number).is_integer() for number in numbers):
        return None
    return next((text for text in _GUESSES if all(_fits(text, int(number)) for number in numbers)), None)


def _fits(text: str, number: int) -> bool:
    form = TimeFormat(text)
    iso = form.iso(str(number).zfill(form.width) if len(str(number)) >= form.width - 1 else "")
    try:
        return iso is not None and datetime.datetime.fromisoformat(iso).year in _GUESSED_YEARS
    except ValueError:
        return False
