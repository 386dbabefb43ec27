"""Files of this machine that are not there are told of before Spark starts, each under its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.preparation.source_places import check_places
from trainer.config import RunConfig
from trainer.errors import DataError

NEGATIVES = {
    "user": "u",
    "item": "i",
    "train": {"file": {"path": "train.tsv"}},
    "evaluation": {"file": {"path": "test.negative", "format": "ncf"}},
}
FILES = {
    "data.source.path": "rows/*.csv",
    "data.joins.0.source.path": "users.parquet",
    "features.dense.0.vectors.source.path": "vectors.parquet",
    "data.negatives.train.file.path": "train.tsv",
    "data.negatives.evaluation.file.path": "test.negative",
}


def run_in(root: str, **data: Any) -> RunConfig:
    vectors = {"source": {"path": FILES["features.dense.0.vectors.source.path"]}, "on": "i", "column": "v"}
    section = {
        "root": root,
        "source": {"path": FILES["data.source.path"], "header": True},
        "joins": [{"source": {"path": FILES["data.joins.0.source.path"]}, "on": ["u"]}],
        "label": {"column": "y"},
        "negatives": NEGATIVES,
        **data,
    }
    features = {"dense": [{"name": "v", "vectors": vectors}]}
    return RunConfig.from_dict(
        {"name": "a", "data": section, "features": features, "model": {"name": "dlrm"}}
    )


def write_all(root: Path) -> None:
    (root / "rows").mkdir()
    for path in FILES.values():
        (root / path.replace("*", "a")).write_text("")


@pytest.mark.parametrize("key", list(FILES))
def test_each_file_that_is_not_there_is_named_with_its_key(tmp_path: Path, key: str) -> None:
    write_all(tmp_path)
    run = run_in(str(tmp_path))
    check_places(run, local=True)
    missing = tmp_path / FILES[key].replace("*", "a")
    missing.unlink()
    with pytest.raises(DataError) as error:
        check_places(run, local=True)
    assert error.value.where == key
    assert error.value.got == str(tmp_path / FILES[key])
    check_places(run, local=False)  # a plain path may be that of another file system
    with pytest.raises(DataError):
        check_places(run_in(f"file://{tmp_path}"), local=False)


def test_places_on_stores_are_left_to_those_who_can_look(tmp_path: Path) -> None:
    check_places(run_in("s3a://bucket/none"), local=True)
    check_places(run_in("hdfs://host/none"), local=True)


def test_rows_of_earlier_days_are_looked_for_too(tmp_path: Path) -> None:
    write_all(tmp_path)
    run = run_in(str(tmp_path))
    check_places(run, local=True, history=[run])
    with pytest.raises(DataError) as error:
        check_places(run, local=True, history=[run.with_source(str(tmp_path / "other"))])
    assert error.value.where == "--history-input"
