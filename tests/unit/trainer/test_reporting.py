"""The report of a run, read back as a browser would read it."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharding.plan import Shard
from sharding.table_groups import TableGroups
from tests.support.html_page import Node, parse, section, table, tile_values
from tests.support.run_folders import METRICS, PARTS, manifest, records, table_plan, write_run
from trainer.errors import DataError
from trainer.reporting import formats, write_report
from trainer.reporting.charts import Line, line_chart, smoothed, stacked_bars, thinned
from trainer.reporting.history import Curve, read_history
from trainer.reporting.plan_view import bytes_by_rank
from trainer.schema import Feature, FeatureStatistics, VectorTable

ATTACK = "<script>alert('x')</script> & \"co\" $a_b$"


def report(folder: Path, **options: Any) -> Node:
    return parse(write_report(write_run(folder, **options)))


def test_headline_shows_test_metrics_and_cost(tmp_path: Path) -> None:
    page = report(tmp_path)
    assert tile_values(page) == {
        "Test AUC": "0.7912",
        "NE": "0.7852",
        "Log loss": "0.5401",
        "Calibration": "1.013",
        "Accuracy": "72.1 %",
        "Steps": "100",
        "Samples/s": "24,100",
        "Wall time": "3 min 12 s",
        "Ranks": "2",
        "Peak memory": "1.25 GiB",
    }
    assert [node.text for node in page.all("h1")] == ["ml-tiny"]
    assert "Finished" in page.all("header")[0].text
    assert "best at step 80" in page.all("header")[0].text


def test_ids_that_come_and_go_are_summed_up_without_what_a_resume_forgot(tmp_path: Path) -> None:
    def ids(step: int, table: str, admitted: int, occupancy: float) -> dict[str, Any]:
        figures = {"occupancy": occupancy, "admitted": admitted, "evicted": admitted // 2, "oov_share": 0.125}
        held = {"slots": 3000, "owners": int(3000 * occupancy), "candidates": 70 + step}
        return {"kind": "ids", "step": step, "table": table, **figures, **held}

    lines = records()
    start = next(line for line in lines if line["kind"] == "start")
    lines += [ids(10, "user", 1500, 0.25), ids(10, "item", 4, 1.0), ids(20, "user", 900, 0.9)]
    lines += [{**start, "first_step": 10}, ids(20, "user", 700, 0.5), ids(20, "item", 6, 1.0)]
    lines += [{"kind": "evaluation", "step": s, "oov_share": {"user": s / 100}} for s in (10, 20)]
    found = table(report(tmp_path, lines=lines), "Ids that come and go")
    assert found[1:] == [
        ["user", "3,000", "50.0 %", "90", "2,200", "1,100", "12.50 %", "20.00 %"],
        ["item", "3,000", "100.0 %", "90", "10", "5", "12.50 %", formats.DASH],
    ]
    assert not [node for node in report(tmp_path / "plain").all("caption") if "come and go" in node.text]


def test_report_is_a_file_of_the_run_folder_and_replaces_the_old_one(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "report.html").write_text("old")
    assert write_report(folder) == folder / "report.html"
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert not list(folder.glob(".*.tmp"))


def test_page_asks_nothing_of_the_network_and_has_no_script(tmp_path: Path) -> None:
    path = write_report(write_run(tmp_path))
    text, page = path.read_text(), parse(path)
    assert "://" not in text
    assert "@import" not in text
    assert page.all("script") == []
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {f"#{i}" for i in re.findall(r'id="([^"]+)"', text)}
    for node in (n for tag in ("link", "use", "a", "img") for n in page.all(tag)):
        assert str(node.attributes.get("href") or node.attributes.get("src")).startswith(("#", "data:,"))
    policy = next(m for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy")
    assert str(policy.attributes["content"]).startswith("default-src 'none'")


def test_words_of_the_run_are_escaped_everywhere(tmp_path: Path) -> None:
    page = report(tmp_path, name=ATTACK, text=ATTACK)
    assert page.all("script") == []
    assert page.all("h1")[0].text == ATTACK
    assert ATTACK in page.all("title")[0].text
    # Segment value, recommended title, feature, table, command: each shown as it was written.
    for anchor in ("evaluation", "recommendations", "data", "plan", "setup"):
        found = section(page, anchor)
        assert found is not None
        assert ATTACK in found.text, anchor


def test_evaluation_shows_segments_largest_first_with_their_distance(tmp_path: Path) -> None:
    found = section(report(tmp_path), "evaluation")
    assert found is not None
    assert table(found, "Evaluated splits")[1][:4] == ["test", "1,000", "55.40 %", "0.7912"]
    titles, *rows = table(found, "Test split by gender")
    assert titles[:5] == ["gender", "Rows", "Base rate", "AUC", "AUC against all"]
    assert rows[0][:5] == ["F", "700", "55.40 %", formats.DASH, formats.DASH]
    assert rows[1][:5] == ["genres", "300", "55.40 %", "0.7812", "\u22120.0100"]


def test_lists_intervals_and_groups_have_their_tables_and_tiles(tmp_path: Path) -> None:
    metrics = {**METRICS, "pr_auc": 0.5, "gauc": 0.75, "groups": 30, "groups_left_out": 2}
    metrics |= {"hr@5": 0.25, "ndcg@5": 0.125, "hr@10": 0.5, "ndcg@10": 0.375, "mrr": 0.2}
    lines = records()
    for line in lines:
        if line["kind"] == "evaluation":
            line |= {"ndcg@10": line["auc"] / 2, "gauc": line["auc"]}
    folder = write_run(tmp_path / "run", lines=lines, metrics=metrics)
    file = folder / "evaluation_test.json"
    told = {"confidence": 0.95, "intervals": {"ndcg@10": [0.3, 0.4], "auc": [None, None]}}
    file.write_text(json.dumps(json.loads(file.read_text()) | told))
    page = parse(write_report(folder))
    tiles = tile_values(page)
    assert (tiles["GAUC"], tiles["HR@10"], tiles["NDCG@10"]) == ("0.7500", "0.5000", "0.3750")
    found = section(page, "evaluation")
    assert found is not None
    assert table(found, "Candidate lists of the test split") == [
        ["K", "HR@K", "NDCG@K"],
        ["5", "0.2500", "0.1250"],
        ["10", "0.5000", "0.3750"],
    ]
    assert "Over 30 lists, 2 with one class alone left out." in found.text
    assert table(found, "Confidence intervals of the test split")[1:] == [
        ["NDCG@10", "0.3750", "0.3000", "0.4000"],
        ["AUC", "0.7912", formats.DASH, formats.DASH],
    ]
    titles = table(found, "Evaluated splits")[0]
    assert titles[-4:] == ["PR-AUC", "GAUC", "MRR", "Checkpoint"]
    assert table(found, "Test split by gender")[0][-2:] == ["HR@10", "NDCG@10"]
    charts = [str(figure.attributes["aria-label"]) for figure in page.all("figure")]
    assert charts[1:5] == ["Validation AUC", "Validation NE", "Validation GAUC", "Validation NDCG@10"]


def test_a_run_measured_by_other_metrics_shows_those(tmp_path: Path) -> None:
    page = report(tmp_path, metrics={"rmse": 0.9, "mae": 0.7, "rows": 1000}, without=("result",))
    assert list(tile_values(page))[:2] == ["Test RMSE", "MAE"]
    assert table(page, "Test split by gender")[0][-3:] == ["RMSE", "RMSE against all", "MAE"]


def test_data_section_shows_splits_and_features(tmp_path: Path) -> None:
    found = section(report(tmp_path), "data")
    assert found is not None
    assert table(found, "Splits")[1:] == [
        ["train", "1,000", "554", "55.40 %", "1", "2.0 KiB"],
        ["valid", "0", "0", formats.DASH, "1", "2.0 KiB"],
        ["test", "1,000", "554", "55.40 %", "1", "2.0 KiB"],
    ]
    assert table(found, "Sparse and sequence features")[1:] == [
        ["movie_id", "sparse", formats.DASH, "movie_id", "1,600", "1.00", "0.00 %", "0.40 %", "1.20 %"],
        ["genres", "sparse", formats.DASH, "genres", "19", "2.13", "0.00 %", formats.DASH, formats.DASH],
        [
            "history",
            "sequence",
            formats.DASH,
            "movie_id",
            *[formats.DASH, "1.00", "0.00 %"],
            *2 * [formats.DASH],
        ],
    ]
    assert table(found, "Sparse and sequence features")[0][-2:] == ["Train OOV", "OOV"]
    assert table(found, "Dense features")[1:] == [["age", "fill, log1p", "0.25", "1", "-2", "3.5", "1.50 %"]]
    assert "Base rate 55.40 %" in found.text
    assert "Prepared 2026-01-01 00:00 UTC" in found.text


def test_data_section_lists_vectors(tmp_path: Path) -> None:
    folder, shown = write_run(tmp_path), manifest()
    poster = Feature(
        name="poster",
        kind="vector",
        column="movie_id",
        num_embeddings=1502,
        vectors=VectorTable(folder="vectors/poster", dim=768, digest="0" * 32),
    )
    spec = shown.spec.model_copy(update={"features": (*shown.spec.features, poster)})
    seen = FeatureStatistics(ids=1500, null_share=0.02, oov_share=0.03, train_oov_share=0.01)
    statistics = {**shown.statistics, "poster": seen}
    shown.model_copy(update={"spec": spec, "statistics": statistics}).save(folder)
    found = section(parse(write_report(folder)), "data")
    assert found is not None
    assert table(found, "Vectors")[1:] == [
        ["poster", "movie_id", "768", "1,500", "2.00 %", "1.00 %", "3.00 %"]
    ]
    names = [row[0] for row in table(found, "Sparse and sequence features")[1:]]
    assert names == ["movie_id", "genres", "history"]


def test_plan_section_shows_tables_largest_first_and_the_fullest_rank(tmp_path: Path) -> None:
    found = section(report(tmp_path), "plan")
    assert found is not None
    rows = table(found, "Embedding tables")[1:]
    assert rows[0] == ["movie_id", "1,602", "16", "fp32", "row_wise", "fused", "0..1", "100.1 KiB", "6.3 KiB"]
    assert rows[1][4:7] == ["table_wise", "fused", "1"]
    # 801 rows x 17 x 4 bytes on each rank, and the 21 rows of genres on rank 1 alone.
    assert "most on rank 1 (54.6 KiB), least on rank 0 (53.2 KiB)" in found.text
    assert "a warning of the planner" in found.text


def test_data_parallel_table_counts_in_full_on_every_rank() -> None:
    copies = tuple(Shard(rank, 0, 0, 10, 4) for rank in range(3))
    placed = bytes_by_rank(
        table_plan("small", 10, 4, "data_parallel", copies, copies=3), TableGroups(4, 4, 4)
    )
    assert placed.tolist() == [200.0, 200.0, 200.0, 0.0]


@pytest.mark.parametrize(("world_size", "step"), [(1, 1), (2, 1), (16, 1), (17, 2), (64, 4), (1024, 64)])
def test_the_rank_axis_counts_whole_ranks_from_zero(world_size: int, step: int) -> None:
    svg = stacked_bars([(1, np.ones(world_size))], name="r", unit="GiB")
    words = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    # The labels of an axis come before its name, the horizontal axis first.
    ranks = words[: words.index("rank")]
    ranks = ranks[words.index("GiB") + 1 :] if "GiB" in ranks else ranks
    assert ranks == [str(rank) for rank in range(0, world_size, step)]


def test_recommendations_show_liked_items_and_the_list(tmp_path: Path) -> None:
    found = section(report(tmp_path), "recommendations")
    assert found is not None
    assert "Liked before: Alien (1979); genres" in found.text
    assert table(found, "Top 3 for user_id 17")[1:] == [
        ["1", "Star Wars (1977) Sci-Fi", "0.9321"],
        ["2", "99", "0.9000"],
        ["3", "genres genres", formats.DASH],
    ]


def test_config_is_folded_and_complete(tmp_path: Path) -> None:
    page = report(tmp_path)
    details = next(d for d in page.all("details") if d.all("summary")[0].text == "Resolved config")
    assert "open" not in details.attributes
    assert json.loads(details.all("pre")[0].text)["train"]["global_batch_size"] == 1024


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_data_is_labelled(tmp_path: Path, synthetic: bool) -> None:
    header = report(tmp_path, synthetic=synthetic).all("header")[0].text
    assert ("The data set is synthetic." in header) == synthetic


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_leaves_its_section_out(tmp_path: Path, part: str) -> None:
    anchors = {
        "evaluation": "evaluation",
        "recommendations": "recommendations",
        "manifest": "data",
        "plan": "plan",
    }
    page = report(tmp_path, without=(part,))
    expected = {"curves", "evaluation", "recommendations", "data", "plan", "setup"} - {anchors.get(part)}
    assert {node.attributes["id"] for node in page.all("section")} == expected
    links = {str(a.attributes["href"]).removeprefix("#") for a in page.all("nav")[0].all("a")}
    assert links == expected


def test_config_and_metrics_alone_make_a_report(tmp_path: Path) -> None:
    page = report(tmp_path, without=PARTS, lines=[])
    assert [node.attributes["id"] for node in page.all("section")] == ["setup"]
    assert page.all("svg") == []


@pytest.mark.parametrize("file", ["config.yaml", "metrics.jsonl"])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, file: str) -> None:
    (write_run(tmp_path) / file).unlink()
    with pytest.raises(DataError, match=f"no readable {file}"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    "file", ["result.json", "manifest.json", "plan.json", "env.json", "evaluation_test.json"]
)
def test_a_damaged_part_is_left_out_and_named(tmp_path: Path, file: str) -> None:
    (write_run(tmp_path) / file).write_text('{"half": ')
    assert file in parse(write_report(tmp_path)).all("footer")[0].text


def test_an_unfinished_run_says_so_and_shows_the_last_validation(tmp_path: Path) -> None:
    page = report(tmp_path, lines=records()[:6], without=("result", "evaluation"))
    assert "Running or interrupted" in page.all("header")[0].text
    assert "step 20 of 100" in page.all("header")[0].text
    values = tile_values(page)
    assert values["Validation AUC"] == formats.decimal(0.5 + 0.2912 * (1 - math.exp(-0.8)))
    assert (values["Steps"], values["Wall time"], values["Ranks"]) == ("20", formats.DASH, "2")


def test_a_run_stopped_on_request_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path, lines=records()[:6], without=("evaluation",))
    result = {
        "steps": 20,
        "epochs": 0,
        "stopped": "interrupted",
        "best_step": None,
        "metrics": None,
        "seconds": 9.5,
    }
    (folder / "result.json").write_text(json.dumps(result))
    page = parse(write_report(folder))
    assert "Stopped on request at step 20 of 100; it can be resumed." in page.all("header")[0].text
    values = tile_values(page)
    assert (values["Steps"], values["Wall time"]) == ("20", "9.5 s")
    # Its result has no metrics: the last validation stands in.
    assert values["Validation AUC"] == formats.decimal(0.5 + 0.2912 * (1 - math.exp(-0.8)))


def test_early_stopping_names_where_the_metric_was_best_and_where_training_stopped(tmp_path: Path) -> None:
    lines = records()
    lines[0]["total_steps"] = 250
    assert (
        "Stopped early at step 100 of 250: the validation metric last improved at step 80, "
        "whose checkpoint (step_80) is used."
    ) in report(tmp_path, lines=lines).all("header")[0].text


def test_a_start_with_more_steps_after_an_early_stop_changes_nothing_about_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path, lines=[*records(), records()[0] | {"first_step": 100, "total_steps": 900}])
    result = json.loads((folder / "result.json").read_text())
    result |= {"total_steps": 250, "progress": {"best_metric": "auc"}}
    (folder / "result.json").write_text(json.dumps(result))
    header = parse(write_report(folder)).all("header")[0].text
    assert "Stopped early at step 100 of 250: the validation auc last improved at step 80" in header


def test_a_run_that_did_all_its_steps_did_not_stop_early(tmp_path: Path) -> None:
    assert "Stopped early" not in report(tmp_path).all("header")[0].text


def test_samples_per_second_say_what_they_leave_out(tmp_path: Path) -> None:
    header = report(tmp_path).all("header")[0].text
    assert "24,100 all ranks, without the time of validation and checkpoints" in header


def test_values_that_are_no_numbers_show_as_a_dash(tmp_path: Path) -> None:
    lines = records()
    lines[1]["loss"] = math.nan
    for line in lines:
        if line["kind"] == "evaluation":
            line["auc"] = math.nan
    metrics = METRICS | {"auc": math.nan, "ne": None, "calibration": math.inf}
    page = report(tmp_path, lines=lines, metrics=metrics)
    values = tile_values(page)
    assert (values["Test AUC"], values["NE"], values["Calibration"]) == (
        formats.DASH,
        formats.DASH,
        formats.DASH,
    )
    titles = [figure.attributes["aria-label"] for figure in page.all("figure")]
    assert "Validation AUC" not in titles
    loss = next(figure for figure in page.all("figure") if figure.attributes["aria-label"] == "Log loss")
    assert "Logged steps whose loss was not finite: 1." in loss.text
    assert not re.search(r"\b(nan|inf|None)\b", page.all("main")[0].text)


def test_curves_of_one_point_show_a_dot(tmp_path: Path) -> None:
    page = report(tmp_path, lines=records(steps=10, every=10))
    figures = page.all("figure")
    assert [str(f.attributes["aria-label"]) for f in figures][:2] == ["Log loss", "Validation AUC"]
    for figure in figures[:5]:
        assert "the only point" in figure.text
        assert [u for u in figure.all("use") if "series" in str(u.attributes["style"])]


def test_charts_carry_their_numbers_in_words_and_no_fixed_colour(tmp_path: Path) -> None:
    page = report(tmp_path)
    figures = page.all("figure")
    titles = [
        "Log loss",
        "Validation AUC",
        "Validation NE",
        "Validation calibration",
        "Samples/s",
    ]
    assert [figure.attributes["aria-label"] for figure in figures][:5] == titles
    assert "Best 0.7859 at step 100" in figures[1].all("figcaption")[0].text
    for node in (n for svg in page.all("svg") for tag in ("path", "use", "text", "g") for n in svg.all(tag)):
        assert "#" not in str(node.attributes.get("style", "")).replace("url(#", "")


def test_a_learning_rate_that_never_changes_is_a_number_and_not_a_chart(tmp_path: Path) -> None:
    flat = report(tmp_path / "flat")
    assert "The dense learning rate was 0.001 at every logged step." in flat.all("main")[0].text
    lines = records()
    lines[1]["learning_rate"] = 0.0005
    page = report(tmp_path / "rising", lines=lines)
    assert "at every logged step" not in page.all("main")[0].text
    rate = next(f for f in page.all("figure") if f.attributes["aria-label"] == "Dense learning rate")
    assert "from 0.0005 at step 10 to 0.001 at step 100" in rate.text


def test_page_has_one_title_ordered_headings_and_unique_ids(tmp_path: Path) -> None:
    path = write_report(write_run(tmp_path))
    text, page = path.read_text(), parse(path)
    levels = [int(level) for level in re.findall(r"<h(\d)", text)]
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for found in page.all("table"):
        assert found.all("caption")
        assert all(head.attributes.get("scope") in ("col", "row") for head in found.all("th"))
        assert all(row.all("th") for row in found.all("tr"))


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    start = {"kind": "start", "total_steps": 40, "first_step": 0, "world_size": 4}
    before = [{"kind": "train", "step": step, "loss": 1.0} for step in (10, 20, 30)]
    after = [{"kind": "train", "step": step, "loss": 0.5} for step in (24, 34)]
    lines = [start, *before, start | {"first_step": 20, "world_size": 2}, *after]
    folder = write_run(tmp_path, lines=lines, without=("result",))
    history = read_history(folder / "metrics.jsonl")
    assert history.train_curve("loss") == Curve((10, 20, 24, 34), (1.0, 1.0, 0.5, 0.5))
    page = parse(write_report(folder))
    assert "resumed at step 20" in page.all("main")[0].text
    assert tile_values(page)["Ranks"] == "2"


def test_wall_time_of_an_unfinished_run_is_read_from_the_records(tmp_path: Path) -> None:
    lines = [line | {"time": 1.7e9 + number} for number, line in enumerate(records())]
    values = tile_values(report(tmp_path, lines=lines, without=("result",)))
    assert values["Wall time"] == "30.0 s"


def test_the_half_line_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    assert read_history(folder / "metrics.jsonl").unreadable_lines == 1
    assert "1 unreadable line" in parse(write_report(folder)).all("footer")[0].text


def test_a_long_run_keeps_its_spikes_and_a_small_page(tmp_path: Path) -> None:
    lines = records(steps=60_000, every=1)
    lines[30_001]["loss"] = 9.0
    assert write_report(write_run(tmp_path, lines=lines)).stat().st_size < 400_000
    curve = Curve(tuple(range(60_000)), (0.0,) * 30_000 + (9.0,) + (0.0,) * 29_999)
    thin = thinned(curve)
    assert len(thin) <= 800
    assert (thin.steps[thin.values.index(9.0)], max(thin.values)) == (30_000, 9.0)


def test_smoothing_keeps_a_constant_and_starts_without_bias() -> None:
    flat = Curve(tuple(range(200)), (3.0,) * 200)
    assert smoothed(flat).values == pytest.approx(flat.values)
    noisy = Curve(tuple(range(200)), tuple(1.0 + (-1) ** step for step in range(200)))
    assert max(smoothed(noisy).values[50:]) < 1.5


def test_smoothing_restarts_where_a_resume_changed_the_level() -> None:
    curve = Curve(tuple(range(1, 201)), (8.0,) * 100 + (2.0,) * 100)
    assert smoothed(curve, [100]).values == pytest.approx(curve.values)
    assert smoothed(curve).values[100] > 6.0


def test_a_chart_is_the_same_each_time() -> None:
    lines = [Line(Curve((1, 2, 3), (0.3, 0.2, 0.1)))]
    assert line_chart(lines, name="loss", last_step=3) == line_chart(lines, name="loss", last_step=3)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formats.byte_size(1023), "1023 B"),
        (formats.byte_size(1536), "1.5 KiB"),
        (formats.byte_size(5 * 1024**4), "5.0 TiB"),
        (formats.duration(59.97), "1 min 00 s"),
        (formats.duration(7384), "2 h 03 min"),
        (formats.count(1234567.6), "1,234,568"),
        (formats.compact(1500), "1.5k"),
        (formats.signed(-0.5, 1), "\u22120.5"),
        (formats.decimal(True), formats.DASH),
        (formats.percent("12"), formats.DASH),
        (formats.general(1234567.4), "1,234,567"),
        (formats.general(-9.376e-08, scale=1.0), "0"),
        (formats.general(-9.376e-08), "-9.376e-08"),
        (formats.general(3e-05, scale=2e-05), "3e-05"),
        (formats.duration(0.004), "under 0.1 s"),
        (formats.moment(0), "1970-01-01 00:00 UTC"),
        (formats.moment("2026-01-01T01:30:00+02:00"), "2025-12-31 23:30 UTC"),
        (formats.moment("last week"), "last week"),
        (formats.moment(None), formats.DASH),
    ],
)
def test_numbers_carry_units(shown: str, expected: str) -> None:
    assert shown.replace("\u202f", " ") == expected
