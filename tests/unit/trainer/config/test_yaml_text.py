"""YAML texts: which words stay words, which numbers are numbers, and what is refused."""

from typing import Any

import pytest
import yaml

from trainer.config.yaml_text import DuplicateKeyError, dump_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("10", 10),
        ("010", 10),
        ("-5", -5),
        ("0x1F", 31),
        ("0o17", 15),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("1e-3", 0.001),
        ("1.", 1.0),
        ("-.inf", float("-inf")),
        ("2024-01-31", "2024-01-31"),
        ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
        ("=", "="),
        ("~", None),
        ("", None),
        ("'010'", "010"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "word",
    ["1e-3", "010", "0o17", "12:30", "2024-01-31", "yes", "null", "", "~", "a #b", "a: b", ".5", "=", "<<"],
)
def test_words_are_quoted_so_that_either_yaml_reads_words(word: str) -> None:
    text = dump_yaml({"key": word})
    assert parse_yaml(text) == {"key": word}
    assert yaml.safe_load(text) == {"key": word}


@pytest.mark.parametrize("number", [1e-8, 1e300, 5e-324, 0.1, 1.0, -3, 0, 2**40])
def test_numbers_are_written_so_that_either_yaml_reads_them(number: float) -> None:
    for read in (parse_yaml, yaml.safe_load):
        found = read(dump_yaml({"key": number}))["key"]
        assert found == number
        assert type(found) is type(number)


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("a: 1\nb: 2\na: 3", "a", (1, 3)),
        ("a: 1\n'a': 3", "a", (1, 2)),
        ("a:\n  - b: {c: 1,\n     c: 2}", "a.0.b.c", (2, 3)),
    ],
)
def test_a_repeated_key_names_its_path_and_lines(text: str, key: str, lines: tuple[int, int]) -> None:
    with pytest.raises(DuplicateKeyError) as caught:
        parse_yaml(text)
    assert caught.value.key == key
    assert (caught.value.first_line, caught.value.line) == lines


def test_a_key_over_a_merged_one_is_no_repeat() -> None:
    assert parse_yaml("- &a {x: 1, y: 2}\n- {<<: *a, x: 3}")[1] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: &x [*x]", "!!int x", "!!bool maybe", "!!timestamp x", "!!set {a}", "9" * 5000, "? [1]\n: 2"],
)
def test_what_is_no_plain_value_is_a_yaml_error(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)
