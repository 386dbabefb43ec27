"""What may change between the parts of a run."""

from jobs.resuming import differing_keys


def test_differences_name_the_full_key_and_both_values() -> None:
    old = {"train": {"epochs": 1, "rate": 0.1}, "name": "a", "gone": 1}
    new = {"train": {"epochs": 2, "rate": 0.1}, "name": "a", "new": {"x": 1}}
    assert differing_keys(old, new) == ["train.epochs: 1 -> 2", "gone: 1 -> None", "new: None -> {'x': 1}"]


def test_equal_values_have_no_differences() -> None:
    assert differing_keys({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) == []
