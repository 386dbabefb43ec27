"""What a text file probably is, told from its first line, for the fixes of errors."""

from __future__ import annotations

from collections.abc import Sequence

_OTHERS = {",": "format: csv", "\t": "format: tsv", ";": 'delimiter: ";"'}


def likely_delimiter(text: str) -> str | None:
    """Return the fix for a line that was taken for one column; None where it holds no usual delimiter."""
    found = max(_OTHERS, key=text.count)
    return f"{_OTHERS[found]}, which parts the line in {text.count(found) + 1}" if found in text else None


def header_fixes(names: Sequence[str]) -> list[str]:
    """Return what to try where column names are probably none: a single one, or mostly numbers.

    Args:
        names: that were read from a header, as far as anybody knows.
    """
    if len(names) == 1:
        fix = likely_delimiter(names[0])
        return [fix] if fix else []
    if sum(map(_is_number, names)) * 2 >= len(names) > 0:
        return ["header: false, columns: [...], if the first line of the file is a row already"]
    return []


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
