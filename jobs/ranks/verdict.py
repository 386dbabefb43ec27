"""Reads what the ranks left behind, and makes one error of it: the cause, not its echoes."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jobs.ranks.faults import describe, unpack
from jobs.ranks.status import Launch, RankStatus, driver_log, log_file, read_statuses
from jobs.ranks.streams import last_lines
from sharding.errors import ShardrecError
from trainer.run_folder import RunFolder

Outcome = Literal["succeeded", "stopped"]
_EXIT_CODE = re.compile(r"(?:rank\s*:\s*(\d+) \(local_rank: \d+\)\s+)?exitcode\s*:\s*(-?\d+) \(pid: (\d+)\)")
_SETTLE_SECONDS = 15.0


class RankError(ShardrecError):
    """A rank failed or was lost.

    Attributes:
        rank: its number; None when no rank started.
        host: its host.
        lost: True when it ended without a word (killed, out of memory, host gone) or ranks lost each other:
            the kind of failure after which starting again from the last checkpoint makes sense. A raised
            error would come again.
        lost_ranks: how many ranks ended without a word.
        last_lines: end of its log.
    """

    def __init__(
        self,
        what: str,
        *,
        rank: int | None = None,
        host: str = "",
        lost: bool = False,
        lost_ranks: int = 0,
        last_lines: Sequence[str] = (),
        **places: Any,
    ) -> None:
        self.rank, self.host, self.lost, self.lost_ranks = rank, host, lost, lost_ranks
        self.last_lines = tuple(last_lines)
        super().__init__(what, **places)

    def as_json(self) -> dict[str, Any]:
        """Return the `--json` form, with the last lines of the rank's log."""
        return {**super().as_json(), "last_lines": list(self.last_lines)}

    def message(self) -> str:
        """Return rule, place, fixes, and the last lines of the rank's log."""
        text = super().message()
        if self.last_lines:
            text += "\n  last lines:\n" + "\n".join(f"    {line}" for line in self.last_lines)
        return text


def settle(run_folder: Path, launch: Launch, seconds: float = _SETTLE_SECONDS) -> dict[int, RankStatus]:
    """Wait until every rank has ended or one has told a cause, at most so long, and return the statuses.

    Spark hands a failure to the driver while other ranks are still being ended on their hosts.
    """
    deadline = time.monotonic() + seconds
    while True:
        statuses = read_statuses(run_folder, launch)
        open_ranks = launch.ranks - sum(status.ended for status in statuses.values())
        told = any(status.kind in {"user", "error"} for status in statuses.values())
        if not open_ranks or told or not statuses or time.monotonic() > deadline:
            return statuses
        time.sleep(0.2)


def judge(
    run_folder: Path, launch: Launch, statuses: dict[int, RankStatus], failure: BaseException | None = None
) -> Outcome:
    """Return how a launch ended, or raise its cause.

    The cause is the first error of a rank's own; else a rank that ended without a word; else that the ranks
    lost each other, as the first of them met it.

    Args:
        run_folder: the run folder.
        launch: the launch.
        statuses: what each rank said last.
        failure: what the starter itself raised.

    Raises:
        UserError: the cause is a mistake that the user can mend.
        RankError: any other cause.
    """
    failed = sorted((s for s in statuses.values() if s.state == "failed"), key=lambda status: status.time)
    causes = [status for status in failed if status.kind != "consequence"]
    lost = [number for number in range(launch.ranks) if number not in statuses or not statuses[number].ended]
    if not failed and not lost:
        stopped = any(status.state == "stopped" for status in statuses.values())
        return "stopped" if stopped else "succeeded"
    if not statuses:
        raise _none_started(run_folder, launch, failure) from failure
    if causes:
        error = _failed(run_folder, launch, causes[0], causes)
        if causes[0].user_error is not None:
            raise unpack(causes[0].user_error) from error
        raise error
    if lost:
        raise _lost(run_folder, launch, statuses, lost)
    raise _apart(run_folder, failed)


def _failed(run_folder: Path, launch: Launch, cause: RankStatus, causes: list[RankStatus]) -> RankError:
    what, _, rest = cause.error.partition("\n")
    others = [status for status in causes if status is not cause and status.error != cause.error]
    fixes = [f"read the whole log: {log_file(run_folder, cause.number)}"]
    fixes += [
        f"also failed: rank {s.rank} on host {s.host}: {s.error.splitlines()[0][:200]}" for s in others[:3]
    ]
    return RankError(
        f"rank {cause.rank} of {launch.ranks} on host {cause.host} failed: {what}"
        + (f"\n{rest}" if rest else ""),
        where=f"rank {cause.rank} on host {cause.host}, pid {cause.pid}",
        fixes=fixes,
        rank=cause.rank,
        host=cause.host,
        last_lines=cause.last_lines,
    )


def _apart(run_folder: Path, failed: list[RankStatus]) -> RankError:
    """Return the error of ranks that all met the end of a connection and nothing else."""
    first = failed[0]
    return RankError(
        f"the ranks lost each other, first rank {first.rank} on host {first.host}: "
        + first.error.partition("\n")[0],
        where=f"rank {first.rank} on host {first.host}, pid {first.pid}",
        fixes=[
            "look at the network between the hosts: links, firewalls, names in /etc/hosts",
            "raise train.process_group_timeout_seconds where a rank may keep the others waiting for so long",
            f"read the whole log: {log_file(run_folder, first.number)}",
            *_ways_on(run_folder),
        ],
        rank=first.rank,
        host=first.host,
        lost=True,
        last_lines=first.last_lines,
    )


def _lost(run_folder: Path, launch: Launch, statuses: dict[int, RankStatus], lost: list[int]) -> RankError:
    codes = _exit_codes(run_folder, launch, statuses)
    # torchrun names the rank that ended first; those that it then ended itself are not to blame.
    named = [number for number in lost if number in codes]
    number = (named or lost)[0]
    status, code = statuses.get(number), codes.get(number)
    rank, host = (status.rank, status.host) if status is not None else (number, "")
    place = f"rank {rank} on host {host}" if status is not None else f"rank {rank}"
    lines = last_lines(log_file(run_folder, number), after=f"attempt {launch.attempt}:")
    return RankError(
        f"{place} ended without a word: {_manner(code)}",
        where=place + (f", pid {status.pid}" if status is not None else ""),
        fixes=[
            *_suspicions(code),
            f"read the logs: {log_file(run_folder, number)} and {driver_log(run_folder)}",
            *_ways_on(run_folder),
        ],
        rank=rank,
        host=host,
        lost=True,
        lost_ranks=len(named) or len(lost),
        last_lines=lines or last_lines(driver_log(run_folder), after=f"attempt {launch.attempt}:"),
    )


def _manner(code: int | None) -> str:
    if code is None:
        return "killed or out of memory"
    if code >= 0:
        return f"it left with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name}: killed or out of memory" if -code == signal.SIGKILL else name


def _ways_on(run_folder: Path) -> list[str]:
    if not RunFolder(run_folder).saved_checkpoints():
        return ["run the same command again"]
    return [
        "go on from the newest checkpoint: the same command again with --resume",
        "let such a run go on by itself: --set train.max_restarts=3",
    ]


def _suspicions(code: int | None) -> list[str]:
    if code in (None, -signal.SIGKILL):
        return ["look for the out-of-memory killer on that host: dmesg, or the events of its container"]
    return []


def _none_started(run_folder: Path, launch: Launch, failure: BaseException | None) -> RankError:
    lines = last_lines(driver_log(run_folder), after=f"attempt {launch.attempt}:")
    fixes = [f"read the whole log: {driver_log(run_folder)}"]
    if launch.mode == "spark":
        fixes = [
            "install shardrec into the Python of every executor (spark.pyspark.python)",
            f"put the run folder on storage that the driver and every executor share (got {run_folder})",
            *fixes,
        ]
    reason = "" if failure is None else f": {_headline(failure)}"
    return RankError(
        f"no rank left a status{reason}",
        where=f"{launch.ranks} ranks, --on {launch.mode}",
        fixes=fixes,
        lost=False,
        lost_ranks=launch.ranks,
        last_lines=lines,
    )


def _headline(failure: BaseException) -> str:
    return describe(failure).splitlines()[0][:300]


def _exit_codes(run_folder: Path, launch: Launch, statuses: dict[int, RankStatus]) -> dict[int, int]:
    """Return the exit codes that torchrun has named in this launch's driver log, by the launcher's number.

    Ranks in two containers may have the same process id; torchrun's line above tells them apart, unless
    another host's line has come between.
    """
    lines = last_lines(driver_log(run_folder), count=2000, after=f"attempt {launch.attempt}:")
    codes: dict[int, int] = {}
    for number, code, pid in _EXIT_CODE.findall("\n".join(lines)):
        bearers = [other for other, status in statuses.items() if status.pid == int(pid)]
        told = [other for other in bearers if str(other) == number]
        codes |= dict.fromkeys(told or bearers, int(code))
    return codes
