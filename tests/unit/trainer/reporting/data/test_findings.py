"""Planted faults are found and named, and honest features are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.datasets import write_dataset
from tests.unit.trainer.reporting.data.planted import dense, sparse, write
from trainer.reporting.data import Finding, write_data_report
from trainer.schema import Feature, FeatureStatistics, JoinedTable

ROWS = 4000


def found(folder: Path, *, kind: str | None = None) -> list[Finding]:
    report = write_data_report(folder)
    return [finding for finding in report.findings if kind in (None, finding.kind)]


def subjects(findings: list[Finding]) -> set[tuple[str, ...]]:
    return {finding.subject for finding in findings}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    """One data set with every fault, each in a feature named for it."""
    rng = np.random.default_rng(1)
    features: list[Feature] = [
        *map(
            dense,
            ("honest", "leak", "middle", "suspicious", "constant", "missing", "rare", "shifted", "twin"),
        ),
        sparse("honest_id", 52),
        sparse("leak_id", 402),
        sparse("new_id", 52),
        sparse("renamed_id", 52),
        sparse("leak_list", 402, is_list=True),
        sparse("honest_list", 52, is_list=True),
        sparse("gaps", 100_000, vocabulary=False),
    ]
    splits = {name: _rows(rng, rows, name) for name, rows in (("train", ROWS), ("valid", 800), ("test", 800))}
    statistics = {
        "missing": FeatureStatistics(null_share=1.0),
        "rare": FeatureStatistics(null_share=0.97),
        "new_id": FeatureStatistics(train_oov_share=0.0),
        "gaps": FeatureStatistics(ids=50),
    }
    folder = tmp_path_factory.mktemp("planted")
    return found(write(folder, features, splits, statistics=statistics))  # type: ignore[arg-type]


def _rows(rng: np.random.Generator, rows: int, split: str) -> dict[str, Any]:
    label = rng.random(rows) < 0.3
    noise = rng.normal(size=rows)
    honest_id = rng.integers(2, 52, rows)
    return {
        "label": label,
        "honest": noise + 0.3 * label,
        "leak": noise - 4.0 * label,
        "middle": np.where(label, rng.uniform(-1, 1, rows), rng.choice([-3.0, 3.0], rows)),
        "suspicious": noise + 1.8 * label,
        "constant": np.full(rows, 7.0),
        "missing": np.zeros(rows),
        "rare": np.where(rng.random(rows) < 0.03, noise, 0.0),
        "shifted": rng.normal(size=rows) + (1.0 if split == "test" else 0.0),
        "twin": 4 * (noise + 0.3 * label),
        "honest_id": honest_id,
        "leak_id": 2 * rng.integers(1, 200, rows) + label,
        "new_id": np.where(
            rng.random(rows) < (0.0 if split == "train" else 0.5), 1, rng.integers(2, 52, rows)
        ),
        "renamed_id": 53 - honest_id,
        "leak_list": [
            [2 * int(i) + int(y)] * int(n)
            for i, n, y in zip(rng.integers(1, 200, rows), rng.integers(1, 4, rows), label, strict=True)
        ],
        "honest_list": [rng.integers(2, 52, int(n)).tolist() for n in rng.integers(0, 4, rows)],
        "gaps": 100 * rng.integers(1, 51, rows),
    }


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("leak", {("leak",), ("middle",), ("leak_id",), ("leak_list",)}),
        ("suspicious", {("suspicious",)}),
        ("constant", {("constant",)}),
        ("all_missing", {("missing",)}),
        ("mostly_missing", {("rare",)}),
        ("drift", {("shifted",), ("new_id",)}),
        ("oov", {("new_id",)}),
        ("duplicate", {("honest", "twin"), ("honest_id", "renamed_id")}),
        ("empty_table", {("gaps",)}),
    ],
)
def test_each_planted_fault_is_found_where_it_was_planted(
    planted: list[Finding], kind: str, expected: set[tuple[str, ...]]
) -> None:
    assert subjects([finding for finding in planted if finding.kind == kind]) == expected


def test_nothing_else_is_found(planted: list[Finding]) -> None:
    kinds = "leak suspicious constant all_missing mostly_missing drift oov duplicate empty_table"
    assert {finding.kind for finding in planted} == set(kinds.split())


def test_gravest_findings_come_first_with_their_number(planted: list[Finding]) -> None:
    levels = [finding.as_json()["level"] for finding in planted]
    assert levels == sorted(levels, key=["high", "medium", "note"].index)
    leak = planted[0].as_json()
    assert leak["kind"] == "leak"
    assert leak["value"] >= 0.95
    assert leak["text"] == f"AUC {leak['value']:.3f}"


def test_an_ordinary_data_set_has_no_findings(tmp_path: Path) -> None:
    write_dataset(tmp_path, rows={"train": 3000, "valid": 500, "test": 500})
    assert found(tmp_path) == []


def test_small_splits_of_one_distribution_are_no_drift(tmp_path: Path) -> None:
    # Chance alone gives a PSI above 0.25 between 300 and 40 rows.
    write_dataset(
        tmp_path, rows={"train": 300, "test": 40}, num_lists=0, num_sequences=0, num_dense=9, seed=3
    )
    report = write_data_report(tmp_path)
    assert "drift" not in {finding.kind for finding in report.findings}


def test_labels_of_one_class_and_another_rate_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    labels = {"train": rng.random(2000) < 0.3, "valid": np.zeros(500), "test": rng.random(500) < 0.7}
    splits = {name: {"x": rng.normal(size=len(y)), "label": y} for name, y in labels.items()}
    findings = found(write(tmp_path, [dense("x")], splits))  # type: ignore[arg-type]
    assert [(f.kind, f.subject) for f in findings] == [
        ("one_class", ("valid",)),
        ("label_rate", ("test",)),
        ("label_rate", ("valid",)),
    ]


def test_side_tables_that_lack_many_rows_are_found(tmp_path: Path) -> None:
    made = write_dataset(tmp_path, rows={"train": 3000, "valid": 500, "test": 500})
    tables = [
        JoinedTable(source=name, on=("id",), rows=4000, unmatched=unmatched)
        for name, unmatched in (("whole", 0), ("few", 199), ("many", 200), ("most", 3900))
    ]
    made.manifest.model_copy(update={"joins": tuple(tables)}).save(tmp_path)
    findings = found(tmp_path)
    assert [(f.kind, f.subject, f.value) for f in findings] == [
        ("unmatched", ("most",), 0.975),
        ("unmatched", ("many",), 0.05),
    ]
    assert findings[1].text.split() == ["5.0", "%", "of", "4,000", "rows"]


def test_a_data_set_without_training_rows_is_compared_with_its_first_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    columns = {"x": rng.normal(size=100), "label": np.zeros(100)}
    findings = found(write(tmp_path, [dense("x")], {"test": columns}))
    assert [(f.kind, f.subject) for f in findings] == [("one_class", ("test",))]


def test_rows_of_users_raise_no_alarm_for_what_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    seen = sparse("seen", 52, is_list=True)
    target = seen.model_copy(update={"name": "targets", "column": "targets", "role": "target"})
    splits = {}
    for split, length, new in (("train", 3, 0), ("test", 9, 3)):
        lists = [rng.integers(2, 52, length).tolist() for _ in range(200)]
        splits[split] = {"seen": lists, "targets": [[1] * new] * 200, "label": np.ones(200)}
    statistics = {"targets": FeatureStatistics(null_share=1.0, mean_length=0.0)}
    folder = write(tmp_path, [seen, target], splits, statistics=statistics)  # type: ignore[arg-type]
    # A target that no id stands for can never be found.
    assert subjects(found(folder)) == {("targets",)}
    assert subjects(found(folder, kind="oov")) == {("targets",)}
