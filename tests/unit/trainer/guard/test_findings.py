"""Codes have one list, and labels are looked at by the manifest alone."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from tests.support.run_folders import manifest
from trainer.config.guard import GuardCode
from trainer.guard import KINDS
from trainer.guard.labels import label_findings
from trainer.records import LabelCounts, TaskLabel
from trainer.schema import Manifest

PAGE = Path(__file__).parents[4] / "docs" / "training-guard.md"


def test_config_kinds_and_page_have_the_same_codes() -> None:
    assert sorted(get_args(GuardCode)) == sorted(KINDS)
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    levels = {cells[1].strip(" `"): cells[2].strip() for cells in (row.split("|") for row in rows)}
    assert levels == {code: kind.level for code, kind in KINDS.items()}


def with_labels(train: tuple[int, int], valid: tuple[int, int], kept: float = 1.0) -> Manifest:
    """Return a manifest with rows and positives of two splits."""
    made = manifest()
    base = made.splits["train"]
    splits = {
        "train": base.model_copy(update={"rows": train[0], "positives": train[1], "negatives_kept": kept}),
        "valid": base.model_copy(update={"rows": valid[0], "positives": valid[1]}),
    }
    return made.model_copy(update={"splits": splits})


@pytest.mark.parametrize(
    ("train", "valid", "found"),
    [
        ((1000, 0), (100, 40), [("label_constant", ("train",))]),
        ((1000, 400), (100, 100), [("label_constant", ("valid",))]),
        ((1000, 400), (0, 0), []),
        ((100_000, 3_000), (10_000, 320), []),
        ((100_000, 3_000), (10_000, 600), [("label_shift", ("valid",))]),
        # Twice the share, of so few rows that it may be chance.
        ((1000, 30), (100, 6), []),
    ],
)
def test_labels_of_one_kind_and_shares_far_apart_are_told(
    train: tuple[int, int], valid: tuple[int, int], found: list[tuple[str, tuple[str, ...]]]
) -> None:
    assert [(f.code, f.subjects) for f in label_findings(with_labels(train, valid), 0)] == found


def with_tasks(train: dict[str, LabelCounts], valid: dict[str, LabelCounts]) -> Manifest:
    """Return a manifest of the tasks click, like and stars; the first has 300 of 1,000 positives."""
    made, params = manifest(), [{}, {}, {"kind": "rating"}]
    labels = tuple(
        TaskLabel(name=name, params=keys)
        for name, keys in zip(("click", "like", "stars"), params, strict=True)
    )
    first = {"rows": 1000, "positives": 300}
    splits = {
        name: made.splits["train"].model_copy(
            update={**first, "labels": {"click": counts(1000, 0.3), **given}}
        )
        for name, given in (("train", train), ("valid", valid))
    }
    spec = made.spec.model_copy(update={"labels": labels})
    return made.model_copy(update={"spec": spec, "splits": splits})


def counts(rows: int, mean: float, std: float = 0.4) -> LabelCounts:
    return LabelCounts(rows=rows, mean=mean, std=std)


def test_labels_of_each_task_are_looked_at_by_their_own_counts() -> None:
    sound = {"like": counts(500, 0.2), "stars": counts(800, 3.5)}
    assert label_findings(with_tasks(sound, sound), 0) == []
    assert label_findings(with_tasks({}, {}), 0) == []  # written without them
    bad = with_tasks(
        {"like": counts(500, 0.0, 0.0), "stars": counts(0, 0.0, 0.0)},
        {"like": counts(100, 1.0, 0.0), "stars": counts(800, 3.0, 0.0)},
    )
    found = label_findings(bad, 0)
    assert [(f.code, f.subjects) for f in found] == [
        ("label_constant", ("like/train",)),
        ("label_constant", ("like/valid",)),
        ("label_constant", ("stars/train",)),
        ("label_constant", ("stars/valid",)),
    ]
    assert found[0].what == "every row of split 'train' that counts for task 'like' has label 0 (500 rows)"
    assert found[2].what == "no row of split 'train' counts for task 'stars'"
    assert label_findings(bad, 0, tasks=bad.spec.tasks[:1]) == []
    (shift,) = label_findings(with_tasks(sound, {**sound, "like": counts(500, 0.6)}), 0)
    assert (shift.code, shift.subjects) == ("label_shift", ("like/valid",))
    assert "60.000% of the validation rows of task 'like' have label 1, and 20.000%" in shift.what


def test_a_model_that_learns_from_label_1_alone_needs_some_and_nothing_else() -> None:
    def codes(train: tuple[int, int]) -> list[str]:
        return [f.code for f in label_findings(with_labels(train, (100, 40)), 0, only_positives=True)]

    assert codes((1000, 1000)) == codes((1000, 100)) == []
    assert codes((1000, 0)) == ["label_constant"]


def test_rows_of_users_in_valid_are_all_of_label_1() -> None:
    made = with_labels((1000, 400), (100, 100))
    users = {"data": {"user_rows": {"splits": ["valid", "test"]}}}
    assert label_findings(made.model_copy(update={"preparation": users}), 0) == []


def test_negatives_that_prepare_has_dropped_are_put_back() -> None:
    # 3,000 positives and 97,000 negatives, of which a tenth is left.
    assert label_findings(with_labels((12_700, 3_000), (10_000, 300), kept=0.1), 0) == []
    assert label_findings(with_labels((12_700, 3_000), (10_000, 300)), 0, same_labels=False) == []
    (found,) = label_findings(with_labels((12_700, 3_000), (10_000, 300)), 0)
    assert "3.000% of the validation rows have label 1, and 23.622% of the training rows" in found.what
