"""A driver in a process of its own.

`python -m tests.support.driver MODE JOB RANKS RUN_FOLDER [MASTER KEY=VALUE...]`
Prints the outcome on stdout and exits as the command line does: 0, 1, 2, or 130 after two Ctrl-C.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from jobs.launch import launch
from sharding.errors import ShardrecError


def main() -> int:
    # A shell's background job ignores SIGINT; a driver at a terminal does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mode, job, ranks, run_folder = sys.argv[1:5]
    try:
        outcome = launch(
            f"tests.support.jobs:{job}",
            run_folder,
            on=mode,  # type: ignore[arg-type]
            ranks=int(ranks),
            spark=_session(*sys.argv[5:]) if sys.argv[5:] else None,
            timeout_seconds=60,
        )
        # In one write: drivers under torchrun share a pipe.
        sys.stdout.write(f"{outcome}\n")
    except ShardrecError as error:
        sys.stderr.write(error.message() + "\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _session(master: str, *settings: str) -> Any:
    from jobs.session import spark_session

    return spark_session("launch-tests", master=master, conf=dict(text.split("=", 1) for text in settings))


if __name__ == "__main__":
    sys.exit(main())
