from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from sharding import search
from sharding.placement import Block, Choice, Ranks
from sharding.search import Layout, find_layout, least_slowest

LOCAL, RANKS = 2, 4


def block(scope: Any, times: Sequence[float], sizes: Sequence[int]) -> Block:
    return Block(scope, np.array(times, float), np.array([sizes, [0] * len(sizes)], np.int64))


def choice(kind: str, *blocks: Block, on_one_host: bool = False) -> Choice:
    return Choice(cast(Any, SimpleNamespace(sharding_type=kind)), blocks, on_one_host)


def table_wise(time: float, size: int) -> Choice:
    return choice("table_wise", block("rank", [time], [size]))


def options(draws: random.Random) -> list[Choice]:
    """Return a table as TorchRec prices one: whole, over a host, over all ranks, copied to all ranks."""
    time, size = draws.uniform(1, 10), draws.randint(1, 40)
    share, half = -(-size // RANKS), -(-size // LOCAL)
    found = [
        table_wise(time, size),
        choice("table_row_wise", block("host", [0.6 * time] * LOCAL, [half] * LOCAL)),
        choice("row_wise", block("all", [0.5 * time] * RANKS, [share] * RANKS)),
        choice("data_parallel", block("all", [0.01 * size] * RANKS, [2 * size] * RANKS)),
    ]
    return found[: draws.randint(1, len(found))]


def every_place(choice: Choice) -> list[int]:
    (only,) = choice.blocks
    return list({"rank": range(RANKS), "host": range(0, RANKS, LOCAL), "all": range(1)}[only.scope])


def best_by_brute_force(tables: Sequence[Sequence[Choice]], cap: int) -> float | None:
    ways = [[(c, place) for c in choices for place in every_place(c)] for choices in tables]
    best: float | None = None
    for combination in itertools.product(*ways):
        times, sizes = [0.0] * RANKS, [0] * RANKS
        for chosen, place in combination:
            for number, (time, size) in enumerate(
                zip(chosen.blocks[0].perf.tolist(), chosen.blocks[0].memory[0].tolist(), strict=True)
            ):
                times[place + number] += time
                sizes[place + number] += size
        if max(sizes) <= cap and (best is None or max(times) < best):
            best = max(times)
    return best


def left(cap: int, ranks: int = RANKS) -> Any:
    return np.array([[cap] * ranks, [0] * ranks], np.int64)


def check(layout: Layout, cap: int) -> None:
    """Reckon times and sizes anew from what was chosen and where."""
    ranks = len(layout.ranks.perf)
    times, sizes = np.zeros(ranks), np.zeros(ranks, np.int64)
    for chosen, places in zip(layout.chosen, layout.places, strict=True):
        assert len(places) == len(chosen.blocks)
        for part, first in zip(chosen.blocks, places, strict=True):
            times[first : first + part.size] += part.perf
            sizes[first : first + part.size] += part.memory[0]
    assert sizes.max() <= cap
    np.testing.assert_allclose(times, layout.ranks.perf)
    np.testing.assert_array_equal(cap - sizes, layout.ranks.left[0])


@pytest.mark.parametrize("cap", [10**6, 45, 35, 25, 20])
def test_plans_are_close_to_the_best_of_all_and_none_is_missed(cap: int) -> None:
    ratios = []
    for seed in range(60):
        draws = random.Random(seed)
        tables = [options(draws) for _ in range(4)]
        best = best_by_brute_force(tables, cap)
        layout = find_layout(tables, left(cap), LOCAL)
        assert (layout is None) == (best is None), seed
        if layout is not None and best is not None:
            check(layout, cap)
            assert best >= least_slowest(tables, RANKS) * 0.999999
            ratios.append(layout.slowest / best)
    assert len(ratios) > 10
    assert 0.999999 <= min(ratios) <= max(ratios) < 1.15
    assert sum(ratios) / len(ratios) < 1.02


def test_many_tables_level_all_ranks() -> None:
    draws = random.Random(0)
    tables = [[table_wise(draws.uniform(1, 10), draws.randint(1, 40))] for _ in range(200)]
    layout = find_layout(tables, left(10**4, 16), 8)
    assert layout is not None
    check(layout, 10**4)
    assert layout.slowest < 1.01 * layout.ranks.perf.mean()


def test_memory_decides_between_equal_times() -> None:
    tables = [[table_wise(1.0, size)] for size in (100, 90, 80, 70, 4, 3, 2, 1)]
    layout = find_layout(tables, left(10**4), LOCAL)
    assert layout is not None
    assert layout.slowest == 2
    assert sorted(10**4 - layout.ranks.left[0]) == [74, 83, 92, 101]


def test_a_copy_on_every_rank_is_taken_where_it_costs_less_than_a_full_round_of_tables() -> None:
    """Five equal tables on four ranks: copies of one of them cost each rank 0.1, a second table 10."""
    copied = choice("data_parallel", block("all", [0.1] * RANKS, [1] * RANKS))
    layout = find_layout([[table_wise(10, 1), copied] for _ in range(5)], left(100), LOCAL)
    assert layout is not None
    assert layout.slowest == pytest.approx(0.5)
    dear = choice("data_parallel", block("all", [6.0] * RANKS, [1] * RANKS))
    layout = find_layout([[table_wise(10, 1), dear] for _ in range(5)], left(100), LOCAL)
    assert layout is not None
    assert layout.slowest == pytest.approx(16)


def test_column_blocks_of_a_grid_take_different_hosts() -> None:
    grid = choice("grid_shard", *[block("host", [1.0] * LOCAL, [3] * LOCAL) for _ in range(3)])
    layout = find_layout([[grid]], left(100, 6), LOCAL)
    assert layout is not None
    assert sorted(layout.places[0]) == [0, 2, 4]
    # With fewer hosts than blocks they are taken in turn.
    layout = find_layout([[grid]], left(100), LOCAL)
    assert layout is not None
    assert sorted(layout.places[0][:2]) == [0, 2]


def test_column_blocks_inside_a_host_never_leave_it() -> None:
    blocks = [block("rank", [1.0], [6]) for _ in range(3)]
    tables = [[choice("table_column_wise", *blocks, on_one_host=True)] for _ in range(2)]
    layout = find_layout(tables, left(12), LOCAL)
    assert layout is not None
    check(layout, 12)
    hosts = [{first // LOCAL for first in places} for places in layout.places]
    assert sorted(hosts, key=min) == [{0}, {1}]
    assert find_layout([*tables, tables[0]], left(12), LOCAL) is None


def test_a_choice_that_does_not_fit_leaves_no_trace() -> None:
    ranks = Ranks(left(10), LOCAL)
    halves = choice("column_wise", *[block("rank", [1.0], [size]) for size in (10, 10, 10, 10, 1)])
    assert ranks.add(halves) is None
    assert ranks.left[0].tolist() == [10] * RANKS
    assert ranks.perf.tolist() == [0] * RANKS


def test_the_search_ends_with_a_plan_when_its_time_is_up() -> None:
    draws = random.Random(3)
    tables = [options(draws) for _ in range(40)]
    layout = find_layout(tables, left(10**4), LOCAL, seconds=0)
    best = find_layout(tables, left(10**4), LOCAL)
    assert layout is not None
    assert best is not None
    check(layout, 10**4)
    assert best.slowest <= layout.slowest


def test_after_its_time_the_search_looks_for_no_second_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(*arguments: Any, **settings: Any) -> Layout | None:
        layout = placed(*arguments, **settings)
        made.append(layout is not None)
        return layout

    placed, made = search._placed, list[bool]()
    monkeypatch.setattr(search, "_placed", counted)
    draws = random.Random(3)
    tables = [options(draws) for _ in range(40)]
    assert find_layout(tables, left(10**4), LOCAL) is not None
    assert sum(made) > 1
    made.clear()
    assert find_layout(tables, left(10**4), LOCAL, seconds=0) is not None
    assert made == [True]
    # The first one is sought for as long as it takes: here the faster rows of four tables leave no place.
    tight = [[table_wise(1.0, 9), choice("row_wise", block("all", [0.5] * RANKS, [3] * RANKS))]] * 4
    made.clear()
    assert find_layout(tight, left(10), LOCAL, seconds=0) is not None
    assert made == [False, True]
