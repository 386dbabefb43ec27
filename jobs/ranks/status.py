"""The files through which launcher and ranks talk: `launch.json`, `status/`, `log/` and `STOP`.

TorchDistributor drops exit codes and hands back any rank's return value, so what a rank leaves in its status
file is the only word that counts. Status and log are numbered as the launcher numbers ranks; that is the
rank's number too, except on Spark hosts with several slots (see `sharding.hosts`), where the status and the
log's first lines hold both.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sharding.files import write_atomically

State = Literal["running", "succeeded", "stopped", "failed"]
Mode = Literal["process", "local", "spark", "torchrun"]


@dataclass(frozen=True)
class Launch:
    """One launch of one job.

    Attributes:
        attempt: names this launch; status files of others do not count.
        job: `package.module:function`.
        mode: how ranks are started.
        ranks: how many.
        device: `auto`, `cpu` or `cuda`.
        timeout_seconds: of the process group.
    """

    attempt: str
    job: str
    mode: Mode
    ranks: int
    device: str = "auto"
    timeout_seconds: float = 120.0

    @classmethod
    def begin(
        cls, run_folder: Path, job: str, mode: Mode, ranks: int, device: str, timeout_seconds: float
    ) -> Launch:
        """Clear the files of an earlier launch and write this one's `launch.json`."""
        launch = cls(uuid.uuid4().hex[:12], job, mode, ranks, device, timeout_seconds)
        clear(run_folder)
        _write(run_folder / "launch.json", asdict(launch))
        return launch

    @classmethod
    def load(cls, run_folder: Path) -> Launch:
        """Read `launch.json`.

        Raises:
            FileNotFoundError: this host does not see the run folder of the launcher.
        """
        try:
            return cls(**json.loads((run_folder / "launch.json").read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"host {socket.gethostname()} does not see {run_folder}/launch.json: the run folder must be "
                "on storage that the driver and every executor share"
            ) from error


@dataclass(frozen=True)
class RankStatus:
    """What a rank says about itself.

    Attributes:
        attempt: launch that it belongs to.
        number: the launcher's number of the rank.
        rank: number among the ranks; the same as `number` until the ranks have met.
        host: host name.
        pid: process id on that host.
        process_table: what the id is of, see `process_table`.
        state: `running` until the rank says otherwise.
        time: when this was written, seconds since the epoch.
        kind: of a failure: `user`, `error`, or `consequence` of another rank's end.
        error: of a failure: `Type: message`.
        user_error: of a failure of kind `user`: what rebuilds it.
        last_lines: of a failure: end of the rank's log.
    """

    attempt: str
    number: int
    rank: int
    host: str
    pid: int
    state: State = "running"
    time: float = 0.0
    kind: str = ""
    error: str = ""
    user_error: dict[str, Any] | None = None
    last_lines: tuple[str, ...] = ()
    process_table: str = ""

    def write(self, run_folder: Path, **changes: Any) -> RankStatus:
        """Write the status with changes, atomically, and return it."""
        status = replace(self, time=time.time(), **changes)
        _write(status_file(run_folder, self.number), asdict(status))
        return status

    @property
    def ended(self) -> bool:
        """Return whether the rank has said its last word."""
        return self.state != "running"


def read_statuses(run_folder: Path, launch: Launch) -> dict[int, RankStatus]:
    """Return the statuses of a launch by the launcher's number; ranks that wrote none are absent."""
    found = {}
    for number in range(launch.ranks):
        try:
            values = json.loads(status_file(run_folder, number).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if values["attempt"] == launch.attempt:
            values["last_lines"] = tuple(values["last_lines"])
            found[number] = RankStatus(**values)
    return found


def process_table() -> str:
    """Name the table that ids of processes here are of: machines and containers may share a host name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def status_file(run_folder: Path, number: int) -> Path:
    """Return the status file of a rank."""
    return run_folder / "status" / f"rank_{number:05d}.json"


def log_file(run_folder: Path, number: int) -> Path:
    """Return the file with what a rank printed."""
    return run_folder / "log" / f"rank_{number:05d}.txt"


def driver_log(run_folder: Path) -> Path:
    """Return the file with what TorchDistributor and torchrun printed."""
    return run_folder / "log" / "driver.txt"


def stop_file(run_folder: Path) -> Path:
    """Return the file that asks ranks to stop: `checkpoint` in it means after a save, `now` at once."""
    return run_folder / "STOP"


def clear(run_folder: Path) -> None:
    """Remove the statuses and the stop request of an earlier launch."""
    (run_folder / "status").mkdir(parents=True, exist_ok=True)
    (run_folder / "log").mkdir(exist_ok=True)
    stop_file(run_folder).unlink(missing_ok=True)
    for old in (run_folder / "status").glob("rank_*.json"):
        old.unlink(missing_ok=True)


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(values, indent=1, ensure_ascii=False))
