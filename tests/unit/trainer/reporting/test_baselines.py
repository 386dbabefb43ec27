"""A run beside baselines, on the page and in a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.html_page import parse, table
from tests.support.run_folders import manifest, write_run
from trainer.errors import DataError
from trainer.reporting import formats, write_report
from trainer.reporting.baselines import compared, comparison_text
from trainer.reporting.records import read_run

RUN = {"recall@5": 0.5, "ndcg@5": 0.25, "coverage": 0.75, "rows": 1000}


def _baseline(folder: Path, model: str, metrics: dict[str, Any], **changes: Any) -> Path:
    folder.mkdir()
    record = {
        "model": model,
        "options": {"neighbours": 5} if model == "item_knn" else {},
        "spec": manifest().spec.hash,
        "fingerprint": manifest().fingerprint,
        "metrics": {"candidates": None},
        **changes,
    }
    (folder / "baseline.json").write_text(json.dumps(record))
    evaluation = {"split": "test", "rows": 1000, "metrics": metrics, "intervals": {"ndcg@5": [0.1, 0.2]}}
    (folder / "evaluation_test.json").write_text(json.dumps(evaluation))
    return folder


def test_the_page_and_the_terminal_have_one_table_of_all_models(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics=RUN)
    folders = [
        _baseline(tmp_path / "popular", "popularity", {"recall@5": 0.125, "ndcg@5": 0.15, "rows": 1000}),
        _baseline(tmp_path / "knn", "item_knn", RUN | {"recall@5": 0.375, "gini": 0.5}),
    ]
    found = table(parse(write_report(run, folders)), "Beside baselines, test split")
    assert found == [
        ["Model", "Recall@5", "NDCG@5", "Coverage", "Gini"],
        ["dlrm", "0.5000", "0.2500", "0.7500", formats.DASH],
        ["popularity", "0.1250", "0.1500 (0.1000 to 0.2000)", formats.DASH, formats.DASH],
        ["item_knn", "0.3750", "0.2500 (0.1000 to 0.2000)", "0.7500", "0.5000"],
    ]
    measured = compared(read_run(run), folders)
    # The run's validation metrics are those of training.
    assert [(one.split, one.name) for one in measured][-1] == ("valid", "dlrm")
    lines = comparison_text(measured).splitlines()
    assert lines[0].split() == ["test", "dlrm", "popularity", "item_knn"]
    assert lines[1].split() == ["Recall@5", "0.5000", "0.1250", "0.3750"]
    assert measured[0].as_json()["metrics"] == RUN


def test_two_of_one_kind_are_told_apart_by_their_options(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics=RUN)
    folders = [
        _baseline(tmp_path / str(count), "item_knn", RUN, options={"neighbours": count}) for count in (5, 9)
    ]
    names = [one.name for one in compared(read_run(run), folders)]
    assert names[1:3] == ["item_knn (neighbours 5)", "item_knn (neighbours 9)"]


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics=RUN)
    with pytest.raises(DataError, match=r"not a baseline's folder(.|\n)*baseline\.json"):
        write_report(run, [run])
    other = _baseline(tmp_path / "other", "als", RUN, spec="ab" * 8)
    with pytest.raises(DataError, match=f"another data set(.|\n)*{'ab' * 8}"):
        write_report(run, [other])
    (run / "config.yaml").write_text(json.dumps({"name": "x", "metrics": {"candidates": 100}}))
    drawn = _baseline(tmp_path / "all", "als", RUN)
    with pytest.raises(DataError, match=r"metrics\.candidates(.|\n)*100"):
        write_report(run, [drawn])
