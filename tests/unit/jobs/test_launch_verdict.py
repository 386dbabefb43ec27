from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.ranks.faults import describe, kind_of, pack, unpack
from jobs.ranks.status import Launch, RankStatus, driver_log, log_file, read_statuses, stop_file
from jobs.ranks.verdict import RankError, judge, settle
from sharding.errors import PlanError, ShardrecError, UserError
from sharding.hosts import RankJoinError
from trainer.errors import ConfigError

CLOSED = "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:1234"


@pytest.fixture
def launched(tmp_path: Path) -> Launch:
    return Launch.begin(tmp_path, "a.b:c", "local", 3, "cpu", 5.0)


def _leave(
    folder: Path,
    launch: Launch,
    number: int,
    state: str,
    error: BaseException | None = None,
    pid: int | None = None,
) -> None:
    status = RankStatus(launch.attempt, number, number, f"h{number}", pid or 100 + number)
    changes: dict[str, Any] = {"state": state}
    if error is not None:
        changes |= {"kind": kind_of(error), "error": describe(error), "user_error": pack(error)}
        changes |= {"last_lines": (f"last line of {number}",)}
    status.write(folder, **changes)


def _judge(folder: Path, launch: Launch, failure: BaseException | None = None) -> str:
    return judge(folder, launch, read_statuses(folder, launch), failure)


def test_all_ranks_succeeding_is_success(tmp_path: Path, launched: Launch) -> None:
    for number in range(3):
        _leave(tmp_path, launched, number, "succeeded")
    assert _judge(tmp_path, launched) == "succeeded"


def test_a_stopped_rank_makes_a_stopped_launch(tmp_path: Path, launched: Launch) -> None:
    for number, state in enumerate(["stopped", "stopped", "succeeded"]):
        _leave(tmp_path, launched, number, state)
    assert _judge(tmp_path, launched) == "stopped"


def test_the_cause_is_named_though_its_echo_came_first(tmp_path: Path, launched: Launch) -> None:
    _leave(tmp_path, launched, 0, "failed", RuntimeError(CLOSED))
    _leave(tmp_path, launched, 2, "failed", ValueError("boom\nmore"))
    _leave(tmp_path, launched, 1, "failed", KeyError("later"))
    with pytest.raises(RankError) as caught:
        _judge(tmp_path, launched)
    error = caught.value
    assert (error.rank, error.host, error.lost, error.exit_code) == (2, "h2", False, 1)
    assert "rank 2 of 3 on host h2 failed: ValueError: boom\nmore" in str(error)
    assert "last line of 2" in str(error)
    assert "also failed: rank 1 on host h1: KeyError: 'later'" in str(error)
    assert "Connection closed" not in str(error)


def test_a_user_error_comes_back_as_itself(tmp_path: Path, launched: Launch) -> None:
    for number in range(3):
        _leave(
            tmp_path,
            launched,
            number,
            "failed",
            ConfigError("no such key", where="train.x", got=3, fixes=["a"]),
        )
    with pytest.raises(ConfigError, match="no such key") as caught:
        _judge(tmp_path, launched)
    assert caught.value.exit_code == 2
    assert (caught.value.where, caught.value.fixes) == ("train.x", ("a",))
    assert isinstance(caught.value.__cause__, RankError)


def test_a_rank_without_a_last_word_is_lost_and_not_the_one_that_missed_it(
    tmp_path: Path, launched: Launch
) -> None:
    _leave(tmp_path, launched, 0, "failed", RuntimeError(CLOSED))
    _leave(tmp_path, launched, 1, "running")
    _leave(tmp_path, launched, 2, "failed", RuntimeError(CLOSED))
    log_file(tmp_path, 1).write_text(f"old\nattempt {launched.attempt}: number 1\nits last words\n")
    with pytest.raises(
        RankError, match="rank 1 on host h1 ended without a word: killed or out of memory"
    ) as caught:
        _judge(tmp_path, launched)
    assert (caught.value.lost, caught.value.lost_ranks) == (True, 1)
    assert caught.value.last_lines == ("its last words",)
    assert caught.value.fixes[-1] == "run the same command again"
    saved = tmp_path / "checkpoints" / "step_00000010"
    saved.mkdir(parents=True)
    (saved / "state.json").touch()
    with pytest.raises(RankError, match="the same command again with --resume"):
        _judge(tmp_path, launched)


def test_of_several_lost_ranks_the_one_that_torchrun_saw_first_is_blamed(
    tmp_path: Path, launched: Launch
) -> None:
    for number in range(3):
        _leave(tmp_path, launched, number, "running")
    driver_log(tmp_path).write_text(
        f"attempt {launched.attempt}: x\n  exitcode  : -11 (pid: 102) (SIGSEGV)\n"
    )
    with pytest.raises(RankError, match="rank 2 on host h2 ended without a word: SIGSEGV"):
        _judge(tmp_path, launched)


def test_ranks_in_containers_with_the_same_process_ids_are_told_apart(
    tmp_path: Path, launched: Launch
) -> None:
    for number in range(3):
        _leave(tmp_path, launched, number, "running", pid=42)
    line = "  rank      : 1 (local_rank: 0)\n  exitcode  : -11 (pid: 42) (SIGSEGV)\n"
    driver_log(tmp_path).write_text(f"attempt {launched.attempt}: x\n  host      : h1\n{line}")
    with pytest.raises(RankError, match="rank 1 on host h1 ended without a word: SIGSEGV") as caught:
        _judge(tmp_path, launched)
    assert caught.value.lost_ranks == 1


def test_exit_codes_of_an_earlier_launch_are_not_read(tmp_path: Path, launched: Launch) -> None:
    for number in range(3):
        _leave(tmp_path, launched, number, "running")
    driver_log(tmp_path).write_text(f"exitcode  : -11 (pid: 102)\nattempt {launched.attempt}: x\n")
    with pytest.raises(RankError, match="rank 0 on host h0 ended without a word: killed"):
        _judge(tmp_path, launched)


def test_ranks_that_lost_each_other_may_start_again(tmp_path: Path, launched: Launch) -> None:
    for number in (1, 0, 2):
        _leave(tmp_path, launched, number, "failed", RuntimeError(CLOSED))
    with pytest.raises(RankError, match="lost each other, first rank 1 on host h1: RuntimeError") as caught:
        _judge(tmp_path, launched)
    assert (caught.value.rank, caught.value.host, caught.value.lost) == (1, "h1", True)
    assert caught.value.last_lines == ("last line of 1",)


def test_a_launch_without_any_rank_tells_what_the_starter_said(tmp_path: Path, launched: Launch) -> None:
    driver_log(tmp_path).write_text(
        f"attempt {launched.attempt}: 3 ranks\nModuleNotFoundError: No module named 'jobs'\n"
    )
    with pytest.raises(
        RankError, match="no rank left a status: RuntimeError: TorchDistributor failed"
    ) as caught:
        _judge(tmp_path, launched, RuntimeError("TorchDistributor failed during training."))
    assert caught.value.last_lines == ("ModuleNotFoundError: No module named 'jobs'",)
    assert not caught.value.lost


def test_a_new_launch_forgets_statuses_and_stop_requests_of_the_old_one(
    tmp_path: Path, launched: Launch
) -> None:
    for number in range(3):
        _leave(tmp_path, launched, number, "succeeded")
    stop_file(tmp_path).write_text("now")
    again = Launch.begin(tmp_path, "a.b:c", "local", 3, "cpu", 5.0)
    assert read_statuses(tmp_path, again) == {}
    assert not stop_file(tmp_path).exists()
    _leave(tmp_path, launched, 0, "failed", ValueError("a rank of the old launch that was slow to die"))
    assert read_statuses(tmp_path, again) == {}


def test_settling_waits_for_the_cause_that_is_still_being_written(tmp_path: Path, launched: Launch) -> None:
    import threading

    _leave(tmp_path, launched, 0, "failed", RuntimeError(CLOSED))
    _leave(tmp_path, launched, 1, "running")
    late = threading.Timer(0.5, _leave, (tmp_path, launched, 1, "failed", ValueError("boom")))
    late.start()
    statuses = settle(tmp_path, launched, seconds=20)
    late.join()
    assert statuses[1].error == "ValueError: boom"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PlanError("x"), "user"),
        (ValueError("Connection closed by peer"), "error"),
        (ConnectionResetError("the storage hung up"), "error"),
        (RuntimeError("index out of range"), "error"),
        (RuntimeError(CLOSED), "consequence"),
        (RuntimeError("[pair.cc] Application timeout caused pair closure"), "consequence"),
        (RankJoinError("1 of 2 ranks did not join"), "consequence"),
        (ShardrecError("the loss is not finite"), "error"),
    ],
)
def test_errors_are_told_from_their_echoes(error: BaseException, kind: str) -> None:
    assert kind_of(error) == kind


def test_an_echo_is_recognised_under_the_error_that_wraps_it() -> None:
    error = ShardrecError("evaluation failed")
    error.__cause__ = RuntimeError(CLOSED)
    assert kind_of(error) == "consequence"


def test_a_user_error_of_a_class_that_is_not_there_stays_a_user_error() -> None:
    packed = pack(PlanError("what", where="w", allowed=("a", "b"))) or {}
    assert type(unpack(packed)) is PlanError
    assert unpack(packed).message() == PlanError("what", where="w", allowed=("a", "b")).message()
    for other in ("nowhere:Missing", "os:system", "sharding.errors:ShardrecError"):
        assert type(unpack(packed | {"class": other})) is UserError
