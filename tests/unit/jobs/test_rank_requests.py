"""The folder of a job: it stays only where its logs are needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.rank_requests import job_folder
from jobs.ranks.verdict import RankError
from trainer.errors import DataError
from trainer.run_folder import RunFolder


def left_by(error: BaseException | None, run_folder: Path) -> list[Path]:
    """Return the files in the folder of a job that ends with an error, or well."""

    def work() -> None:
        with job_folder(RunFolder(run_folder), "score") as place:
            (place / "log.txt").write_text("why")
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    return list((run_folder / "jobs").rglob("*"))


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), DataError("no rows"), RuntimeError("of py4j")])
def test_nothing_is_left_of_a_job_whose_logs_nobody_needs(
    tmp_path: Path, error: BaseException | None
) -> None:
    assert left_by(error, tmp_path) == []


def test_the_logs_of_a_failed_rank_stay(tmp_path: Path) -> None:
    assert [path.name for path in left_by(RankError("rank 0 failed"), tmp_path) if path.is_file()] == [
        "log.txt"
    ]
