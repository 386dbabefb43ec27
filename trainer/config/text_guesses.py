"""What a text file probably is, told from its first line, for the fixes of errors."""

from __future__ import annotations

import csv
import glob
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

_HEAD_BYTES = 64 << 10
_SHOWN = 200
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


def first_line(path: str, encoding: str) -> str | None:
    """Return the first line of a local file, or of the first file of a folder or pattern, that is not blank.

    Args:
        path: file, folder or glob; of a URL nothing is known.
        encoding: of the text.
    """
    file = next(iter(sorted(glob.glob(path))), path)
    if Path(file).is_dir():
        inside = sorted(str(each) for each in Path(file).iterdir() if each.name[0] not in "._")
        file = next(iter(inside), file)
    try:
        with pa.input_stream(file, compression="detect") as stream:
            text = stream.read(_HEAD_BYTES).decode(encoding, errors="replace")
    except (pa.ArrowException, OSError):
        return None
    return next((line for line in text.removeprefix("\ufeff").splitlines() if line.strip()), None)


def naming_fixes(line: str | None, delimiter: str) -> list[str]:
    """Return what to write into a text source without column names, the likelier of the two first.

    Args:
        line: the first one of the file, where it is known.
        delimiter: between columns.
    """
    if line is None:
        return ["header: true, where the first line names them", "columns: [...], where it does not"]
    parts = next(csv.reader([line], delimiter=delimiter)) if len(delimiter) == 1 else line.split(delimiter)
    other = likely_delimiter(line) if len(parts) == 1 else None
    shown = ", ".join(f"NAME_{number}" for number in range(1, min(len(parts), 3) + 1))
    columns = f"columns: [{shown}{', ...' if len(parts) > 3 else ''}]"
    fixes = [
        f"header: true, if the line names the columns ({', '.join(parts)[:_SHOWN]})",
        f"{columns}, with {len(parts)} name(s), if the line is a row",
    ]
    row_first = any(map(_is_number, parts)) or not all(part.strip() for part in parts)
    return ([other] if other else []) + (fixes[::-1] if row_first else fixes)


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
