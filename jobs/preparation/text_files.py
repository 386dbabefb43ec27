"""Local CSV, TSV and JSON files, looked into before Spark reads them: what it would take wrongly is named."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NoReturn

import pyarrow as pa

from jobs.preparation.failures import column_twice, unreadable_file
from jobs.preparation.files import SourceFiles
from trainer.config.text_guesses import header_fixes
from trainer.errors import DataError

# Text is decoded here at a few GB/s, which Spark's own reading hides; beyond this only each file's beginning.
_DECODED_BYTES = 256 << 20
_CHUNK_BYTES = 1 << 20
_LEAST_BYTES = 64 << 10
# Hadoop packs these in ways of its own.
_ONLY_SPARK_UNPACKS = {".lz4", ".snappy", ".deflate"}
_PACKED = {".gz", ".bz2", ".zst"}
# Encodings in which Python and Java refuse the same bytes; Java then puts U+FFFD, which would merge ids.
_STRICT = {"utf-8", "utf-8-sig", "ascii"}
# Spark skips such lines as blank.
_ONLY_BLANKS = re.compile(r"\n([ \t]+)\r?(?=\n)")
_LINE_END = re.compile(r"[\r\n]")
# Where an object may end before its line does; Spark reads no further than the first object.
_AFTER_OBJECT = re.compile(r"\}[ \t\r]*[^\s,\]}]")
_UTF_16 = "UTF-16 text"
# How files begin that are no text in most encodings, what they are, and the way out.
_OTHERS = {
    b"PK\x03\x04": ("a zip archive", "unzip it"),
    b"\x1f\x8b": ("packed with gzip", "let its name end in .gz"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "let its name end in .zst"),
    b"BZh91AY&SY": ("packed with bzip2", "let its name end in .bz2"),
    b"PAR1\x15": ("Parquet", "format: parquet"),
    b"\xff\xfe": (_UTF_16, "convert the file: iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": (_UTF_16, "convert the file: iconv -f UTF-16 -t UTF-8"),
}
_NO_HEADER = "header: false, columns: [...], if the first line is a row"
UNNAMED = "__unnamed_"


def checked_text(
    files: SourceFiles, encoding: str, *, skip: bool = False, doubled_quotes_between: str | None = None
) -> tuple[SourceFiles, list[str] | None]:
    """Check that local text files are in the encoding, and hold no lines that Spark would take wrongly.

    Args:
        files: of text.
        encoding: that the config says.
        skip: leave out files that cannot be unpacked.
        doubled_quotes_between: delimiter of columns where a quote within a quoted one is written as two.

    Returns:
        The files that can be read; and the first line of each of `files.here`, None where Spark alone can
        open the files.

    Raises:
        DataError: bytes that are no text in the encoding, a line that Spark would skip or cut, a damaged
            file.
    """
    if not files.here or any(Path(file).suffix.lower() in _ONLY_SPARK_UNPACKS for file in files.here):
        return files, None
    limit = max(_LEAST_BYTES, _DECODED_BYTES // len(files.here))
    heads: dict[str, str] = {}
    lost: list[str] = []
    for file in files.here:
        whole = skip and Path(file).suffix.lower() in _PACKED
        try:
            heads[file] = _checked_head(
                file, encoding, None if whole else limit, files.format, doubled_quotes_between
            )
        except (pa.ArrowException, OSError) as error:
            if not skip or isinstance(error, PermissionError):
                raise unreadable_file(file, "text", error) from error
            lost.append(f"skipped as damaged: the whole file {file}, its rows unknown")
    if not heads:
        raise DataError("every file of the source is damaged", where=files.shown)
    if lost:
        files = replace(files, here=list(heads), lost=tuple(lost))
    return files, list(heads.values())


def _checked_head(
    file: str, encoding: str, limit: int | None, kind: str, doubled_quotes_between: str | None
) -> str:
    errors = "strict" if codecs.lookup(encoding).name in _STRICT else "replace"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    head, seen, last, rest = "", 0, False, ""
    try:
        with pa.input_stream(file, compression="detect") as stream:
            while not last and (limit is None or seen < limit):
                chunk = stream.read(_CHUNK_BYTES if limit is None else min(_CHUNK_BYTES, limit))
                last = not chunk
                if not seen:
                    _check_beginning(chunk, file, encoding)
                text = decoder.decode(chunk, final=last)
                if kind == "json":
                    rest = _check_objects(rest + text, file, last=last)
                else:
                    _check_blanks(text if head else "\n" + text, file)
                    if doubled_quotes_between is not None:
                        rest = _check_escapes(rest + text, file, doubled_quotes_between, last=last)
                head = head or _first_line(text)
                seen += len(chunk)
    except UnicodeDecodeError as error:
        # The decoder still held the first bytes of a character from the chunk before.
        _raise_wrong_encoding(file, encoding, error, seen - (len(error.object) - len(chunk)))
    return head.removeprefix("\ufeff")


def _first_line(text: str) -> str:
    """Return a text up to the end of its first line that is not blank: all files' are held at once."""
    lines: list[str] = []
    quotes = 0
    for line in io.StringIO(text, newline=None):
        lines.append(line)
        quotes += line.count('"')
        if line.strip() and quotes % 2 == 0:
            break
    return "".join(lines)


def _check_beginning(chunk: bytes, file: str, encoding: str) -> None:
    """Check that a file does not begin as those of other formats do: most encodings would read it as text."""
    utf_16 = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    for mark, (what, fix) in _OTHERS.items():
        if chunk.startswith(mark) and not (utf_16 and what == _UTF_16):
            raise DataError(f"the file is {what}, not {encoding} text", where=file, fixes=[fix])


def _check_blanks(text: str, file: str) -> None:
    if "\n\t" not in text and "\n " not in text:  # a hundred times faster than the pattern
        return
    found = _ONLY_BLANKS.search(text)
    if found and "\t" in found.group(1):
        raise DataError(
            "a line holds delimiters only; Spark would skip it as blank",
            where=file,
            got=repr(found.group(1)),
            fixes=["remove such lines, for instance: grep -v -P '^[ \\t]+\\r?$'"],
        )


def _check_escapes(text: str, file: str, delimiter: str, *, last: bool) -> str:
    """Check that no quote within a quoted field is escaped, and return the line that is not whole yet."""
    end = len(text) if last else _line_start(text, len(text))
    pattern, place = _escaped_quote(delimiter), text.find('\\"', 0, end)
    while place >= 0:
        stop = _LINE_END.search(text, place, end)
        stop_at = stop.start() if stop else end
        found = pattern.match(text[_line_start(text, place) : stop_at].lstrip("\ufeff"))
        if found:
            raise DataError(
                "quotes within a quoted field have a backslash before them, and would be kept with it",
                where=file,
                got=found.group(1)[:100],
                allowed='two quotes for one ("")',
                fixes=['escape: "\\\\" in the source'],
            )
        place = text.find('\\"', stop_at, end)
    return text[end:]


def _line_start(text: str, place: int) -> int:
    return max(text.rfind("\n", 0, place), text.rfind("\r", 0, place)) + 1


@cache
def _escaped_quote(delimiter: str) -> re.Pattern[str]:
    """Return what finds a quoted field with an escaped quote in a line.

    That is a backslash before a quote which neither ends the field nor is the first of two. In a field that
    does not begin with a quote, both are characters like any other.
    """
    d = re.escape(delimiter)
    field = rf'(?:"(?:[^"]|"")*"|[^"{d}][^{d}]*|)'
    return re.compile(rf'(?:{field}{d})*("(?:[^"\\]|\\[^"]|"")*\\"[^"{d}])')


def _check_objects(text: str, file: str, *, last: bool) -> str:
    """Check that nothing comes behind the object of a line, and return the line that is not whole yet."""
    end = len(text) if last else text.rfind("\n") + 1
    begin = 0
    while begin < end and (found := _AFTER_OBJECT.search(text, begin, end)) is not None:
        start = text.rfind("\n", 0, found.start()) + 1
        stop = text.find("\n", found.start())
        stop = len(text) if stop < 0 else stop
        line = text[start:stop].lstrip("\ufeff").strip()
        try:
            value, length = json.JSONDecoder().raw_decode(line)
        except ValueError:  # Spark tells of what is no JSON at all
            length, value = len(line), None
        if isinstance(value, dict) and length < len(line):
            raise DataError(
                "a line goes on behind its JSON object; Spark would leave out the rest",
                where=file,
                got=line[max(0, length - 40) : length + 60],
                fixes=["write one object per line, for instance: jq -c ."],
            )
        begin = stop + 1
    return text[end:]


def _raise_wrong_encoding(file: str, encoding: str, error: UnicodeDecodeError, start: int) -> NoReturn:
    place = start + error.start
    around = error.object[max(0, error.start - 20) : error.end + 20]
    raise DataError(
        f"the file is not {encoding} text, so different values would become the same",
        where=file,
        got=f"byte 0x{error.object[error.start]:02x} at offset {place}: {around!r}",
        fixes=[
            "set `encoding` of the source (data.source.encoding), often ISO-8859-1",
            "convert the file: iconv -f WINDOWS-1252 -t UTF-8",
        ],
    ) from error


def headers(
    files: SourceFiles, heads: Sequence[str], delimiter: str, quote: str, escape: str | None = None
) -> list[tuple[list[str], list[str]]]:
    """Return the column names in the first lines of all files, and the files that have them in this order.

    Args:
        files: of CSV or TSV.
        heads: their first lines.
        delimiter: between columns.
        quote: character, or nothing.
        escape: character before a quote; None where such quotes are doubled.

    Returns:
        Names, those of columns without one `__unnamed_<n>`, and files; the first file's come first.

    Raises:
        DataError: the files are empty, a name comes twice, or a file lacks a column of another.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for file, head in zip(files.here, heads, strict=True):
        try:
            names = _header(head, delimiter, quote, escape)
        except csv.Error as error:
            raise DataError(
                "the header cannot be read", where=file, got=f"{error}: {head[:100]!r}", fixes=[_NO_HEADER]
            ) from error
        if names:
            found.setdefault(tuple(names), []).append(file)
    if not found:
        raise DataError("the source has no rows: it is empty, without even a header", where=files.shown)
    first = next(iter(found))
    for header, having in found.items():
        _check_header(header, having[0])
        _check_same_names(header, having[0], first, found[first][0])
    if len(found) == 1:  # files without a line among them
        return [(_named(first), files.here)]
    return [(_named(header), having) for header, having in found.items()]


def _named(names: Sequence[str]) -> list[str]:
    return [name or f"{UNNAMED}{number}" for number, name in enumerate(names)]


def _header(head: str, delimiter: str, quote: str, escape: str | None) -> list[str]:
    # Spark ends lines at a carriage return alone, too.
    lines = (line for line in io.StringIO(head, newline=None) if line.strip())
    if not quote:
        return next(lines, "").rstrip("\r\n").split(delimiter) if head.strip() else []
    doubled = escape is None
    reader = csv.reader(lines, delimiter=delimiter, quotechar=quote, escapechar=escape, doublequote=doubled)
    return next(reader, [])


def _check_header(names: Sequence[str], file: str) -> None:
    lowered = [name.lower() for name in names if name]
    twice = [name for name in names if lowered.count(name.lower()) > 1]
    if twice:
        fixes = header_fixes(names) or ["rename one of the two in the header", _NO_HEADER]
        raise column_twice(twice[-1], f"{file}: header", list(names), fixes)


def _check_same_names(names: Sequence[str], file: str, first: Sequence[str], other: str) -> None:
    """Check that two headers hold the same names; columns without one must stand where they stand there."""
    for lacking, there, mine, theirs in ((file, other, names, first), (other, file, first, names)):
        missing = [name for name in theirs if name not in mine]
        if missing:
            raise DataError(
                f"the files of a source have different headers: column {missing[0]!r} is missing in one",
                where=lacking,
                got=", ".join(mine)[:300],
                allowed=f"{', '.join(theirs)[:300]}, as in {there}",
                fixes=[
                    *header_fixes(mine),
                    "write the files again with the same columns",
                    "list in `path` the files that fit together",
                ],
            )
    if "" in names and tuple(names) != tuple(first):
        raise DataError(
            "the files of a source have different headers, and some of their columns have no name",
            where=file,
            got=", ".join(names)[:300],
            allowed=f"{', '.join(first)[:300]}, as in {other}",
        )
