"""A call in a process of its own that is ended when its time is up."""

from __future__ import annotations

import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jobs.errors import unexpected
from sharding.errors import ShardrecError

Argument = TypeVar("Argument")
Result = TypeVar("Result")
# Python puts the working folder, as '', into the path of `-c`: a queue.py in there would hide Python's own.
_CODE = """\
import sys
sys.path[:] = [sys.argv[1], *filter(None, sys.path)]
from jobs.limited import answer
answer(int(sys.argv[2]), debug=sys.argv[3] == "debug")
"""


def run_limited(
    function: Callable[[Argument], Result],
    argument: Argument,
    seconds: float,
    too_long: Callable[[], Exception],
    *,
    debug: bool = False,
) -> Result:
    """Return what a function gives, from a new Python process; what it prints goes to stderr.

    Args:
        function: of a module; both it and its argument are pickled.
        argument: of the function.
        seconds: after which the process is killed.
        too_long: makes the error for that.
        debug: show the traceback of an error on stderr; it does not come back with the error.

    Raises:
        ShardrecError: the function's own error, or the process died.
    """
    reader, writer = os.pipe()
    root, mode = str(Path(__file__).resolve().parents[1]), "debug" if debug else ""
    command = [sys.executable, "-c", _CODE, root, str(writer), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, pass_fds=[writer]) as process:
        os.close(writer)
        try:
            assert process.stdin is not None
            process.stdin.write(pickle.dumps((function, argument)))
            process.stdin.flush()  # It stays open: its end tells the process that this one is gone.
            said = _read(reader, seconds)
            if said is None:
                raise too_long()
            if not said:
                raise _died(function.__module__, process.wait())
        finally:
            os.close(reader)
            process.kill()
    good, value = pickle.loads(said)  # noqa: S301 - of our own process
    if not good:
        raise value
    result: Result = value
    return result


def _read(reader: int, seconds: float) -> bytes | None:
    """Return all that comes until the other end is closed, or None when the time is up."""
    end = time.monotonic() + seconds
    parts: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while selector.select(max(0.0, end - time.monotonic())):
            part = os.read(reader, 1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
    return None


def _died(where: str, exit_code: int) -> ShardrecError:
    return ShardrecError(
        "the process ended without a result",
        where=where,
        got=f"exit code {exit_code}",
        fixes=["-9 means that it was killed, most often for want of memory: free some"],
    )


def _end_with_caller() -> None:
    """End this process at the end of stdin: nobody waits for its result any more."""
    while os.read(0, 1 << 10):
        pass
    os._exit(1)


def answer(writer: int, *, debug: bool) -> None:
    """Call the function that stdin holds and write its result, or its error, to a file descriptor.

    Args:
        writer: the file descriptor.
        debug: show the traceback of an error on stderr.
    """
    # A Ctrl-C reaches both processes; the other one answers it and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        function, argument = pickle.load(sys.stdin.buffer)  # noqa: S301 - of our own process
        threading.Thread(target=_end_with_caller, daemon=True).start()
        said: tuple[bool, object] = (True, function(argument))
    except Exception as error:
        if debug:
            traceback.print_exc()
        told = isinstance(error, (ShardrecError, OSError))
        said = (False, error if told else unexpected(error, debug=debug))
    with os.fdopen(writer, "wb") as stream:
        stream.write(pickle.dumps(said))
