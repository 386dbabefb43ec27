"""The page of the data report, read back as a browser would read it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import main
from tests.support.datasets import write_dataset
from tests.support.html_page import parse, section, table, tile_values
from tests.support.run_folders import write_run
from tests.unit.trainer.reporting.data.planted import dense, sparse, write
from trainer.errors import DataError
from trainer.reporting.data import write_data_report
from trainer.schema import CleaningStep, FittedOp, Manifest

ATTACK = "<script>alert('x')</script> & \"co\" $a_b$"


def test_page_shows_rows_features_and_what_was_looked_at(tmp_path: Path) -> None:
    write_dataset(tmp_path, rows={"train": 3000, "valid": 500, "test": 500})
    page = parse(write_data_report(tmp_path, max_rows=1000).path)
    tiles = tile_values(page)
    assert (tiles["Rows"], tiles["Features"], tiles["Rows looked at"]) == ("4,000", "7", "1,000")
    method = section(page, "method")
    assert method is not None
    assert "750 of 3,000 in train, 125 of 500 in valid, 125 of 500 in test rows" in method.text
    compared = section(page, "compared")
    assert compared is not None
    titles, *rows = table(compared, "Every feature across splits and against the label")
    assert titles[-1] == "AUC alone"
    assert [row[0] for row in rows] == ["d0", "d1", "d2", "s0", "s1", "m0", "h0"]
    assert all(0.4 < float(row[-1]) < 0.85 for row in rows)


def test_hostile_names_and_tokens_are_escaped_and_the_page_needs_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    columns = {
        ATTACK: rng.normal(size=400),
        "c": [2, 2, 2, 3] * 100,
        f"keep.{ATTACK} time": rng.integers(900_000_000, 900_900_000, 400),
        "label": rng.random(400) < 0.4,
    }
    features, tokens = [dense(ATTACK), sparse("c", 4)], {"c": [ATTACK, "\u202eevil\n"]}
    write(tmp_path, features, {"train": columns, "test": columns}, tokens=tokens, name=ATTACK)
    path = write_data_report(tmp_path).path
    text, page = path.read_text(), parse(path)
    assert page.all("script") == []
    assert "://" not in text
    assert page.all("h1")[0].text == ATTACK
    for anchor in ("label", "compared", "dense", "ids"):
        found = section(page, anchor)
        assert found is not None
        assert ATTACK in found.text, anchor
    ids = section(page, "ids")
    assert ids is not None
    assert "\ufffdevil\ufffd 25.0" in ids.text.replace("\u202f", " ")
    marks = re.findall(r'\bid="([^"]+)"', text)
    assert len(marks) == len(set(marks))


def test_label_rate_is_drawn_by_split_where_the_split_is_by_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    splits = {
        name: {
            "x": rng.normal(size=500),
            "keep.day": np.arange(start, start + 500),
            "label": rng.random(500) < 0.4,
        }
        for name, start in (("train", 0), ("valid", 500), ("test", 1000))
    }
    preparation = {"data": {"split": {"method": "time", "column": "day"}}}
    write(tmp_path, [dense("x")], splits, preparation=preparation)  # type: ignore[arg-type]
    label = section(parse(write_data_report(tmp_path).path), "label")
    assert label is not None
    figure = label.all("figure")[0]
    assert [item.text for item in figure.all("li")] == ["train", "valid", "test"]
    assert "By the kept column day" in label.text


def test_many_features_make_a_small_page_with_all_of_them_in_its_tables(tmp_path: Path) -> None:
    write_dataset(
        tmp_path, rows={"train": 300, "test": 60}, num_dense=260, num_sparse=240, num_lists=0, num_sequences=0
    )
    path = write_data_report(tmp_path).path
    assert path.stat().st_size < 1_000_000
    page = parse(path)
    dense_part, ids = section(page, "dense"), section(page, "ids")
    assert dense_part is not None
    assert ids is not None
    assert [len(part.all("article")) for part in (dense_part, ids)] == [60, 60]
    assert "60 of 260 features are pictured" in dense_part.text
    assert len(table(dense_part, "Dense features in numbers")) == 261
    assert len(table(ids, "Id features in numbers")) == 241


def test_equal_data_sets_have_equal_pages(tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        write_dataset(tmp_path / name, rows={"train": 500, "test": 100})
        texts.append(write_data_report(tmp_path / name).path.read_bytes())
    assert texts[0] == texts[1]


def test_the_verb_reports_a_data_set_with_its_findings_and_a_run_as_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    label = rng.random(500) < 0.5
    write(tmp_path / "data", [dense("x")], {"train": {"x": label, "label": label}})
    assert main(["report", str(tmp_path / "data"), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["report"] == str(tmp_path / "data" / "report.html")
    assert [(f["kind"], f["level"], f["subject"], f["value"]) for f in value["findings"]] == [
        ("leak", "high", ["x"], 1.0)
    ]
    assert main(["report", str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out.startswith("high: x: Predicts the label alone")
    run = write_run(tmp_path / "run")
    assert main(["report", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(run / "report.html")}


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no readable manifest"):
        write_data_report(tmp_path)


def test_page_tells_what_cleaning_dropped_and_what_was_remarked(tmp_path: Path) -> None:
    write_dataset(tmp_path, rows={"train": 300})
    before = parse(write_data_report(tmp_path).path)
    assert section(before, "rows") is None
    cleaning = (
        CleaningStep(name="where", dropped=1200, left=800),
        CleaningStep(name="k_core", dropped=500, left=300),
    )
    manifest = Manifest.load(tmp_path)
    manifest.model_copy(update={"cleaning": cleaning, "remarks": (f"skipped: {ATTACK}",)}).save(tmp_path)
    rows = section(parse(write_data_report(tmp_path).path), "rows")
    assert rows is not None
    assert table(rows, "What data.clean dropped, rule by rule")[1:] == [
        ["where", "1,200", "800"],
        ["k_core", "500", "300"],
    ]
    assert [item.text for item in rows.all("li")] == [f"skipped: {ATTACK}"]


def test_all_buckets_of_unseen_values_are_out_of_vocabulary(tmp_path: Path) -> None:
    op = FittedOp(name="vocabulary", params={"oov_buckets": 3})
    feature = sparse("c", 6).model_copy(update={"ops": (op,)})
    label = [0, 1] * 50
    train = {"c": [4] * 60 + [5] * 30 + [0] * 10, "label": label}
    test = {"c": [1] * 20 + [2] * 10 + [3] * 15 + [4] * 30 + [0] * 25, "label": label}
    write(tmp_path, [feature], {"train": train, "test": test})
    report = write_data_report(tmp_path)
    ids = section(parse(report.path), "ids")
    assert ids is not None
    titles, row = table(ids, "Id features in numbers")
    found = dict(zip(titles, row, strict=True))
    assert (found["OOV train"], found["OOV test"], found["Ids seen"]) == ("0.0 %", "60.0 %", "2")
    assert [f.value for f in report.findings if f.kind == "oov"] == [0.6]
