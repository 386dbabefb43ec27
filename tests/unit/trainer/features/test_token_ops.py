"""Ops on ids, and crosses, against plain Python."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.xxh64 import xxh64 as reference_hash
from tests.unit.trainer.features.plain import plain
from trainer.config import OpConfig
from trainer.features.crosses import crossed
from trainer.features.hashing import xxh64
from trainer.features.ops import resolve_ops
from trainer.features.raw_values import tokens
from trainer.features.registry import OPS

# Letters that every version of Unicode in use knows.
known = st.characters(max_codepoint=0x24FF)
texts = st.one_of(st.none(), st.sampled_from(["", "a", "A|b", "Red, red"]), st.text(known, max_size=6))
columns = st.lists(texts, max_size=12)


def apply(op: Any, column: pa.Array) -> Any:
    (resolved,) = resolve_ops([OpConfig.model_validate(op)], "sparse", "here")
    return OPS["token", resolved.name].function(tokens(column, "c"), **resolved.params)


def text(rows: list[str | None]) -> pa.Array:
    return pa.array(rows, pa.string())


@given(columns)
def test_fill(rows: list[str | None]) -> None:
    assert plain(apply({"fill": "none"}, text(rows))) == [row or "none" for row in rows]


def test_fill_of_numbers_and_within_lists() -> None:
    assert plain(apply({"fill": -1}, pa.array([7, None]))) == ["7", "-1"]
    assert plain(apply({"fill": "x"}, pa.array([["a", None], None, []]))) == [["a", "x"], [], []]
    words_of_statistics = apply({"fill": "mean"}, text([None]))
    assert plain(words_of_statistics) == ["mean"]
    assert not OPS["token", "fill"].needs_fit({"value": "mean"})


@given(columns, st.sampled_from(["|", ", ", "a", ".", "\\E"]))
def test_split_takes_the_delimiter_literally(rows: list[str | None], delimiter: str) -> None:
    expected = [[part for part in (row or "").split(delimiter) if part] for row in rows]
    assert plain(apply({"split": delimiter}, text(rows)).compacted()) == expected


def test_lower() -> None:
    rows = ["RED", "Ünïcode", "ΣΊΣΥΦΟΣ", None, "", "straße"]
    assert plain(apply("lower", text(rows))) == ["red", "ünïcode", "σίσυφοσ", None, None, "straße"]
    assert plain(apply("lower", pa.array([["A", None], ["b"]]))) == [["a", None], ["b"]]


@given(columns)
def test_words_are_runs_of_letters_marks_digits_and_underscores(rows: list[str | None]) -> None:
    made = plain(apply("words", text(rows)).compacted())
    for row, words in zip(rows, made, strict=True):
        kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c == "_" else " " for c in row or "")
        assert len(words) == len(kept.split())
        assert all(word == word.lower() or not word.isascii() for word in words)


def test_words_of_several_scripts() -> None:
    rows = ["Don't PANIC: it's snake_case, 42!", "हिन्दी и Ёлка", "e\u0301tat", "...", None]
    assert plain(apply("words", text(rows)).compacted()) == [
        ["don", "t", "panic", "it", "s", "snake_case", "42"],
        ["हिन्दी", "и", "ёлка"],
        ["e\u0301tat"],
        [],
        [],
    ]


@given(st.lists(columns, max_size=8), st.integers(1, 5), st.sampled_from(["first", "last"]))
def test_truncate_counts_tokens_that_are_there(rows: list[list[str | None]], length: int, keep: str) -> None:
    made = apply({"truncate": {"max_length": length, "keep": keep}}, pa.array(rows, pa.list_(pa.string())))
    there = [[token for token in row if token] for row in rows]
    assert plain(made) == [row[:length] if keep == "first" else row[-length:] for row in there]


def test_truncate_leaves_single_tokens() -> None:
    assert plain(apply({"truncate": 1}, text(["a", None]))) == ["a", None]


@given(columns, st.integers(1, 2**62), st.integers(-(2**40), 2**40))
def test_hash_is_xxh64_modulo_buckets(rows: list[str | None], buckets: int, seed: int) -> None:
    def bucket(row: str) -> int:
        unsigned = reference_hash(f"{seed}:{row}".encode(), seed=42)
        return (unsigned - (unsigned >> 63 << 64)) % buckets + 1

    made = apply({"hash": {"num_buckets": buckets, "seed": seed}}, text(rows))
    assert made.tolist() == [bucket(row) if row else 0 for row in rows]


def test_hash_of_numbers_is_that_of_their_text() -> None:
    as_numbers = apply({"hash": 1000}, pa.array([7.0, None, 12.5]))
    assert as_numbers.tolist() == apply({"hash": 1000}, text(["7", None, "12.5"])).tolist()


@pytest.mark.parametrize("length", [0, 3, 4, 7, 8, 31, 32, 33, 100])
def test_xxh64_of_every_length(length: int) -> None:
    some = "abcdefg é"[:9] * 20
    signed = int(xxh64(pa.array([some[:length]]), "p")[0])
    assert signed % 2**64 == reference_hash(("p" + some[:length]).encode(), seed=42)
    assert signed < 2**63


@given(st.integers(2, 4).flatmap(lambda n: st.lists(st.tuples(*[texts] * n), max_size=10)))
def test_rows_share_a_cross_only_where_all_parts_are_equal(rows: list[tuple[str | None, ...]]) -> None:
    if not rows:
        return
    made = plain(crossed([tokens(text(list(column)), "c") for column in zip(*rows, strict=True)]))
    assert [token is None for token in made] == [not all(row) for row in rows]
    there = [(token, row) for token, row in zip(made, rows, strict=True) if token is not None]
    assert len({token for token, _ in there}) == len({row for _, row in there})
    assert all(re.sub(r"\\&", "&", token) == " & ".join(map(str, row)) for token, row in there)


def test_cross_of_parts_that_hold_the_separator() -> None:
    left, right = text(["a & b", "a", "a\\", None]), text(["c", "b & c", "& b", "x"])
    made = crossed([tokens(left, "l"), tokens(right, "r")])
    assert plain(made) == ["a \\& b & c", "a & b \\& c", "a\\ & \\& b", None]


def test_cross_of_numbers_and_of_many_columns() -> None:
    numbers = tokens(pa.array([1, 2, 1, None]), "n")
    many = crossed([numbers, tokens(pa.array([True, True, True, True]), "b"), numbers])
    assert plain(many) == ["1 & true & 1", "2 & true & 2", "1 & true & 1", None]
    assert len(many.values) == 2  # each combination is joined once
    assert plain(crossed([tokens(text([]), "a"), tokens(text([]), "b")])) == []
