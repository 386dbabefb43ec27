"""The rules that rows, lanes, batch size and ranks must keep, and what their errors say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.datasets import WrittenDataset, write_dataset
from tests.unit.trainer.data.reading import open_tiny
from trainer.data import check_layout
from trainer.errors import DataError, UserError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenDataset:
    return write_dataset(tmp_path_factory.mktemp("rules"), rows={"train": 100, "valid": 3, "test": 0})


def check(written: WrittenDataset, split: str = "train", **options: Any) -> int:
    defaults = {"global_batch_size": 64, "num_lanes": 8, "world_size": 1, "tail": "drop"}
    return check_layout(written.manifest, split, **(defaults | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_batch_size": 60}, r"multiple of the number of lanes[\s\S]*56[\s\S]*64"),
        ({"world_size": 3}, r"multiple of the number of ranks[\s\S]*1, 2, 4, 8[\s\S]*use 2 ranks"),
        ({"world_size": 16}, r"more ranks than lanes[\s\S]*data.num_lanes: 16[\s\S]*use 8 ranks"),
        ({"global_batch_size": 128}, r"too small for one batch[\s\S]*global_batch_size: 96[\s\S]*tail: pad"),
        ({"world_size": 4, "split": "valid"}, r"more ranks than rows[\s\S]*at most 3[\s\S]*use 2 ranks"),
        ({"split": "valid"}, r"too small for one batch[\s\S]*num_lanes: 3"),
    ],
)
def test_broken_rule_is_refused_with_numbers_that_work(
    written: WrittenDataset, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(written, **options)
    rank_options = {key: value for key, value in options.items() if key != "split"}
    with pytest.raises(UserError, match=message):
        open_tiny(written, split=options.get("split", "train"), **rank_options)


def test_the_suggested_numbers_are_accepted(written: WrittenDataset) -> None:
    assert check(written, global_batch_size=96) == 1
    assert check(written, world_size=16, num_lanes=16) == 1
    assert check(written, split="valid", num_lanes=3, global_batch_size=3) == 1
    assert check(written, split="valid", world_size=2, tail="pad") == 1


@pytest.mark.parametrize(("world_size", "num_lanes"), [(3, 8), (5, 8), (12, 8), (16, 8), (8, 12)])
def test_the_suggested_lanes_are_accepted_with_what_they_ask_of_the_batch(
    written: WrittenDataset, world_size: int, num_lanes: int
) -> None:
    options = {"world_size": world_size, "num_lanes": num_lanes, "global_batch_size": 48}
    with pytest.raises(UserError) as caught:
        check(written, **options)
    (fix,) = (fix for fix in caught.value.fixes if "num_lanes" in fix)
    suggested = dict(part.split(": ") for part in fix.split(" and "))
    lanes = int(suggested["data.num_lanes"])
    batch = int(suggested.get("train.global_batch_size", 48))
    assert check(written, world_size=world_size, num_lanes=lanes, global_batch_size=batch) > 0


def test_more_ranks_than_rows_may_evaluate_but_not_train(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows={"train": 1, "valid": 1})
    assert check(written, split="valid", world_size=8, tail="pad") == 1
    for options in ({"split": "valid"}, {"split": "train"}, {"split": "train", "tail": "pad"}):
        with pytest.raises(
            UserError, match=r"more ranks than rows[\s\S]*1 rows for 2 ranks[\s\S]*use 1 ranks"
        ):
            check(written, world_size=2, **options)
    with pytest.raises(UserError, match=r"more ranks than lanes[\s\S]*use 8 ranks"):
        check(written, split="valid", world_size=16, tail="pad")


def test_an_empty_split_is_refused(written: WrittenDataset) -> None:
    with pytest.raises(DataError, match="no rows in split 'test'"):
        check(written, split="test")


def test_steps_count_full_batches_or_all_rows(written: WrittenDataset) -> None:
    assert check(written, global_batch_size=16) == 6  # 12 rows in the shortest lane, 2 at a time
    assert check(written, global_batch_size=16, tail="pad") == 7  # 13 in the longest


def test_relative_and_uri_paths_name_the_same_data(
    written: WrittenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(written.folder.parent)
    ways = [Path(written.folder.name), written.folder.name, written.folder.as_uri()]
    for folder in ways:
        data = WrittenDataset(folder, written.manifest, written.tables)  # type: ignore[arg-type]
        rows = [row for batch in open_tiny(data, tail="pad").batches(0) for row in batch.rows_B.tolist()]
        assert len([row for row in rows if row >= 0]) == 100
