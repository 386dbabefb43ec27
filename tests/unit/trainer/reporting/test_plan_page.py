"""The page of a plan: numbers of the plan, a heat map with the right cells, nothing from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sharding.plan import Plan
from tests.support.run_folders import plan as small_plan
from trainer.reporting.heat_map import HeatRow, heat_map
from trainer.reporting.plan_page import write_plan_page


def cells(svg: str) -> list[tuple[float, float, float, float, str]]:
    """Return x, y, width, opacity and tooltip of each cell."""
    found = re.findall(
        r'<rect x="([\d.]+)" y="(\d+)" width="([\d.]+)" height="13" fill="var\(--series-1\)" '
        r'fill-opacity="([\d.]+)"><title>([^<]*)</title></rect>',
        svg,
    )
    return [(float(x), float(y), float(width), float(shade), text) for x, y, width, shade, text in found]


def draw(*rows: tuple[str, list[float]], local: int = 2, least: float = 1.0) -> str:
    made = [HeatRow(label, np.array(values)) for label, values in rows]
    return str(heat_map(made, local_world_size=local, least=least, unit=1.0))


def test_each_value_is_a_cell_in_its_column_and_row() -> None:
    drawn = cells(draw(("a", [5, 0, 0, 7]), ("b", [0, 3, 0, 0])))
    # 830 units for 4 ranks, from 170 on.
    assert [(x, y, width) for x, y, width, _, _ in drawn] == [
        (170, 4, 207.5),
        (792.5, 4, 207.5),
        (377.5, 19, 207.5),
    ]
    assert [text for *_, text in drawn] == ["a, rank 0: 5 GiB", "a, rank 3: 7 GiB", "b, rank 1: 3 GiB"]


def test_neighbours_of_one_value_are_one_cell() -> None:
    ((x, _, width, _, text),) = cells(draw(("a", [2, 2, 2, 0])))
    assert (x, width, text) == (170, 3 * 207.5, "a, ranks 0 to 2: 2 GiB")


def test_colours_deepen_with_the_logarithm() -> None:
    shades = [shade for *_, shade, _ in cells(draw(("a", [1, 10, 100, 1000])))]
    assert shades == pytest.approx([0.12, 0.12 + 0.88 / 3, 0.12 + 0.88 * 2 / 3, 1], abs=0.006)


def test_many_ranks_are_shown_by_node_with_the_fullest_of_each() -> None:
    values = [0.0] * 512
    values[8:16] = [1, 2, 3, 4, 4, 3, 2, 1]
    ((x, _, width, _, text),) = cells(draw(("a", values), local=8))
    assert text == "a, node 1: 4 GiB"
    assert (x, width) == (pytest.approx(170 + 830 / 64, abs=0.01), pytest.approx(830 / 64, abs=0.01))


def test_names_cannot_write_html() -> None:
    svg = draw(("<script>", [1, 0]))
    assert "<script>" not in svg
    assert "&lt;script&gt;" in svg


def page_of(plan: Plan, tmp_path: Path) -> str:
    return write_plan_page(plan, tmp_path / "new" / "plan.html", "my run").read_text(encoding="utf-8")


def test_the_page_shows_verdict_memory_time_and_every_table(tmp_path: Path) -> None:
    plan = replace(small_plan("<b>title"), rows_per_epoch=1_000_000)
    text = page_of(plan, tmp_path)
    estimate = plan.estimate
    for shown in (
        "my run",
        "Fits",
        "fp32 forward, fp32 backward",
        f"{estimate['step_ms']:,g} ms",
        "1,000,000 rows",
        "no list price",
    ):
        assert shown in text
    assert "movie_id" in text
    assert "<b>title" not in text
    assert "a warning of the planner" in text
    assert not re.search(r'(src|href)="(?!#|data:)', text)


def test_the_heat_map_holds_all_bytes_of_the_tables(tmp_path: Path) -> None:
    plan = small_plan()
    total = sum(table.weight_bytes + table.optimizer_bytes for table in plan.tables)
    drawn = cells(page_of(plan, tmp_path))
    in_all = [text for *_, text in drawn if text.startswith("all tables")]
    sizes = [float(re.search(r": ([\d.e-]+) GiB", text)[1]) for text in in_all]  # type: ignore[index]
    assert sum(sizes) * 2**30 == pytest.approx(total, rel=0.01)


def test_small_tables_beyond_the_limit_share_a_row(tmp_path: Path) -> None:
    plan = small_plan()
    many = replace(plan, tables=tuple(replace(plan.tables[1], name=f"t{i}") for i in range(70)))
    assert "10 smaller tables" in page_of(many, tmp_path)


def test_ranks_beyond_the_limit_are_said_to_be_left_out(tmp_path: Path) -> None:
    plan = small_plan()
    ranks = 1030
    many = replace(
        plan,
        cluster=replace(plan.cluster, nodes=ranks, ranks_per_node=1),
        memory=tuple(replace(plan.memory[0], rank=rank) for rank in range(ranks)),
    )
    assert "The first 1024 of 1,030 ranks." in page_of(many, tmp_path)
    assert "The first" not in page_of(plan, tmp_path)


def test_every_group_of_ranks_shows_a_copy_of_the_tables(tmp_path: Path) -> None:
    one = small_plan()
    memory = tuple(replace(one.memory[rank % 2], rank=rank) for rank in range(4))
    cluster = replace(one.cluster, nodes=2)
    grouped = replace(one, cluster=cluster, memory=memory, table_shard_group_size=2, table_sync_every_steps=5)
    text = page_of(grouped, tmp_path)
    assert "2, each on a group of 2 ranks, averaged every 5 steps" in text
    assert "Averaging of the copies of the tables" in text
    shown = [where for *_, where in cells(text) if where.startswith("genres")]
    assert [where.split(":")[0] for where in shown] == ["genres, rank 1", "genres, rank 3"]
    assert "Averaging of the copies" not in page_of(one, tmp_path)
