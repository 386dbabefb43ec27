"""Drawing items for positives: exact exclusion, no item twice, the shares asked for, an end in any case."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.preparation.negative_sampling import ITEM, PLACE, POSITIVE, USER, Drawing, Items, Sampler, draw

NOTHING = np.zeros(0, dtype=np.int64)


def hashes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**63, count, dtype=np.uint64)


def popularity(counts: list[int], alpha: float = 1.0) -> Items:
    weights = np.array(counts, dtype=float) ** alpha
    return Items(len(counts), np.cumsum(weights) / weights.sum())


@pytest.mark.parametrize("uniform_share", [0.0, 0.3, 1.0])
def test_one_draw_follows_the_shares_of_its_distribution(uniform_share: float) -> None:
    counts, n = [1, 16, 0, 81, 2, 100], 200_000
    items = popularity(counts, alpha=0.75)
    found = draw(hashes(n), np.zeros(n, dtype=np.int64), NOTHING, Drawing(items, 1, uniform_share))
    weights = np.array(counts) ** 0.75
    expected = uniform_share / 6 + (1 - uniform_share) * weights / weights.sum()
    shares = np.bincount(found[:, 0], minlength=6) / n
    assert (np.abs(shares - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / n)).all()


def test_lists_of_a_uniform_draw_hold_every_pair_of_items_equally_often() -> None:
    n = 60_000
    found = np.sort(draw(hashes(n), np.zeros(n, dtype=np.int64), NOTHING, Drawing(Items(5), 2)), axis=1)
    pairs, counts = np.unique(found, axis=0, return_counts=True)
    assert pairs.tolist() == [[a, b] for a in range(5) for b in range(a + 1, 5)]
    assert (np.abs(counts / n - 0.1) <= 4.5 * np.sqrt(0.1 * 0.9 / n)).all()


def test_a_user_who_knows_nearly_all_items_gets_exactly_those_that_are_left() -> None:
    size = 5_000
    known = np.setdiff1d(np.arange(size), [17, 4_321, 4_999])
    known = np.concatenate([known, size + np.arange(size)])  # user 1 knows everything
    users = np.array([0, 0, 1, 2], dtype=np.int64)
    found = draw(hashes(4), users, known, Drawing(Items(size), 4))
    assert [sorted(row) for row in found[:2].tolist()] == [[-1, 17, 4_321, 4_999]] * 2
    assert (found[:2, 3] == -1).all()
    assert found[2].tolist() == [-1] * 4
    assert len(set(found[3].tolist()) - {-1}) == 4


def test_items_without_popularity_are_drawn_neither_at_random_nor_to_fill_a_list_up() -> None:
    items = popularity([0, 5, 0, 1, 0])
    found = draw(hashes(50), np.zeros(50, dtype=np.int64), NOTHING, Drawing(items, 4, 0.0))
    assert np.sort(found, axis=1).tolist() == [[-1, -1, 1, 3]] * 50


def test_the_exact_draw_of_what_is_left_follows_the_weights() -> None:
    # So popular a known item that nearly all attempts hit it.
    items, n = popularity([1, 3, 10**9]), 20_000
    known = np.arange(n, dtype=np.int64) * 3 + 2
    found = draw(hashes(n), np.arange(n, dtype=np.int64), known, Drawing(items, 1, 0.0))
    share = (found[:, 0] == 1).mean()
    assert set(found[:, 0].tolist()) == {0, 1}
    assert abs(share - 0.75) < 4.5 * np.sqrt(0.75 * 0.25 / n)


def test_what_is_excluded_and_nothing_else_is_never_drawn() -> None:
    table = partition()
    items = {
        exclude: drawn_by_user(table, Drawing(Items(60), 60, exclude=exclude, every_row=True))
        for exclude in ("known", "train", "none")
    }
    everything = set(range(60))
    rows = table.select([USER, "split", ITEM, POSITIVE]).to_pandas()
    assert len(items["none"]) > 20
    for user, drawn in items["none"].items():
        mine = rows[rows[USER] == user]
        assert drawn == everything
        assert items["known"].get(user, set()) == everything - set(mine[ITEM])
        trained = mine[mine[POSITIVE] & (mine["split"] == "train")]
        assert items["train"].get(user, set()) == everything - set(trained[ITEM])
    assert items["train"] != items["known"]


def drawn_by_user(table: pa.Table, drawing: Drawing) -> dict[str, set[int]]:
    sampler = Sampler({"test": drawing}, 5, split="split", order="order", carried=[USER])
    made = pa.Table.from_batches(list(sampler(iter(table.to_batches())))).to_pandas()
    return made.groupby(USER)[ITEM].agg(set).to_dict()


def partition(seed: int = 0) -> pa.Table:
    """Return rows of 40 users sorted by user and hash, some of them equal, one user with many rows."""
    random = np.random.default_rng(seed)
    users = [f"u{n:02d}" for n in range(40) for _ in range(300 if n == 7 else random.integers(1, 12))]
    count = len(users)
    rows = {
        USER: users,
        "order": random.integers(-(2**62), 2**62, count),
        ITEM: random.integers(0, 60, count),
        POSITIVE: random.random(count) < 0.8,
        "split": random.choice(["train", "test"], count),
        "row": np.arange(count),
    }
    table = pa.table(rows).sort_by([(USER, "ascending"), ("order", "ascending")])
    return pa.concat_tables([table.slice(0, 3), table.slice(2)]).combine_chunks()  # row 2 comes twice


def sampled(table: pa.Table, batch_rows: int) -> list[tuple[int, int, int]]:
    drawings = {"train": Drawing(Items(60), 3, every_row=True), "test": Drawing(Items(60), 9)}
    sampler = Sampler(drawings, 5, split="split", order="order", carried=["row"])
    made = pa.Table.from_batches(list(sampler(iter(table.to_batches(max_chunksize=batch_rows)))))
    assert made.column_names == ["row", ITEM, PLACE]
    return sorted(zip(*(made[name].to_pylist() for name in made.column_names), strict=True))


def test_batches_do_not_change_what_is_drawn() -> None:
    table = partition()
    whole = sampled(table, 10_000)
    assert len(whole) > 1_000
    assert sampled(table, 1) == sampled(table, 7) == sampled(table, 64) == whole


def test_other_rows_of_other_users_do_not_change_what_is_drawn() -> None:
    table = partition()
    some = table.filter(pc.is_in(table[USER], pa.array(["u03", "u08", "u20"])))
    rows = set(some["row"].to_pylist())
    assert len(sampled(some, 50)) > 30
    assert sampled(some, 50) == [made for made in sampled(table, 50) if made[0] in rows]


def test_each_of_several_equal_training_rows_has_a_list_but_equal_test_rows_share_one() -> None:
    row = {USER: ["a"], "order": [77], ITEM: [3], POSITIVE: [True], "row": [1]}
    for split, lists in (("train", 2), ("test", 1)):
        one = pa.table({**row, "split": [split]})
        found = sampled(pa.concat_tables([one, one]), 10)
        count = 3 if split == "train" else 9
        assert len(found) == lists * count
        if split == "train":
            assert found[:3] != found[3:]
            assert len({item for _, item, _ in found}) > 3
