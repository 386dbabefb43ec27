"""A link that delays and loses packets, in user space: few kernels hold `netem`, most hold TAP devices.

```python
with slow_link(host, delay_seconds=0.025, loss=0.01):  # each way
    ...
```

The process `python -m tests.support.slow_link` carries Ethernet frames between a device of the host and a
port of the bridge.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.hosts import Host, give_address

_TAP = Path("/dev/net/tun")
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_INSIDE, _PORT = "slow0", "slow1"
_FRAME_BYTES = 2048


@contextmanager
def slow_link(host: Host, delay_seconds: float, loss: float) -> Iterator[dict[str, int]]:
    """Put a slow link in the place of a host's cable, under the same address.

    Yields an empty dict, which holds the number of frames `carried` and `lost` when all is over.

    Args:
        host: the host; not the one with the bridge.
        delay_seconds: each way.
        loss: share of the frames that get lost, each way.
    """
    if not _TAP.exists():
        pytest.skip(f"a slow link needs {_TAP}")
    carrier = subprocess.Popen(
        [sys.executable, "-m", __name__, str(host.pid), str(host.switch), str(delay_seconds), str(loss)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert carrier.stdin is not None
    assert carrier.stdout is not None
    frames: dict[str, int] = {}
    try:
        assert carrier.stdout.readline() == "ready\n"
        host.set_link("down")
        host.ip("link", "set", "eth0", "down")
        host.ip("address", "flush", "dev", "eth0")
        host.ip("link", "set", _INSIDE, "address", _hardware_address(host))  # The others remember it.
        give_address(host, _INSIDE)
        host.on_switch("link", "set", _PORT, "master", "br0", "up")
        yield frames
    finally:
        carrier.stdin.close()
        frames |= json.loads(carrier.stdout.read() or "{}")
        carrier.wait(30)
        carrier.stdout.close()
        give_address(host, "eth0")
        host.set_link("up")


def _hardware_address(host: Host) -> str:
    shown = subprocess.run(
        host.command("ip", "-json", "link", "show", "eth0"), capture_output=True, text=True, check=True
    )
    return str(json.loads(shown.stdout)[0]["address"])


def _main(inside: str, switch: str, delay_seconds: float, loss: float) -> None:
    ends = [_tap(inside, _INSIDE), _tap(switch, _PORT)]
    print("ready", flush=True)
    chance, carried, lost = random.Random(7), 0, 0
    waiting: list[tuple[float, int, int, bytes]] = []
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, end, frame = heapq.heappop(waiting)
            _send(end, frame)
        pause = waiting[0][0] - now if waiting else None
        for ready in select.select([*ends, 0], [], [], pause)[0]:
            if ready == 0:  # Our parent has closed the pipe, or is gone.
                print(json.dumps({"carried": carried, "lost": lost}), flush=True)
                return
            frame = os.read(ready, _FRAME_BYTES)
            if chance.random() < loss:
                lost += 1
                continue
            carried += 1
            other = ends[1 - ends.index(ready)]
            heapq.heappush(waiting, (time.monotonic() + delay_seconds, carried, other, frame))


def _send(end: int, frame: bytes) -> None:
    try:
        os.write(end, frame)
    except OSError:  # The device is not up yet.
        return


def _tap(pid: str, name: str) -> int:
    """Enter a host's network and return a device that lies there."""
    with open(f"/proc/{pid}/ns/net") as network:
        if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")
    end = os.open(_TAP, os.O_RDWR)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return end


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
