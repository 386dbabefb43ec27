"""Several hosts on this machine: each has its own network, address, name, hosts file and process table.

```python
with hosts(tmp_path, "driver", "worker-1", "worker-2") as (driver, *workers):
    subprocess.run(driver.command("getent", "hosts", "worker-1"), check=True)
    workers[0].set_link("down")
```

Hosts are Linux namespaces without names. The first one holds the bridge that links them, so nothing of this
shows outside and runs side by side cannot clash. The first process of a host reads from a pipe of ours: when
we end, however that happens, it ends, the kernel ends every process of that host, and the network goes too.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_NETWORK = "10.77.0"
_OWN = ("--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
_FIRST_PROCESS = (
    'hostname "$0" && mount --bind "$1" /etc/hosts && ip link set lo up && echo ready && exec cat'
)


@dataclass(frozen=True)
class Host:
    """One host.

    Attributes:
        name: host name.
        address: of its interface `eth0` (of the first host: of its bridge).
        pid: of the process, here outside, that holds it.
        hosts_file: its `/etc/hosts`; what is written into it counts at once.
        switch: `pid` of the host with the bridge, whose port to this host has this host's name.
    """

    name: str
    address: str
    pid: int
    hosts_file: Path
    switch: int

    def command(self, *words: object, cwd: Path | str = "/") -> list[str]:
        """Return the words that run a command on this host."""
        # `unshare` itself is outside the process table that it has made for its child.
        table = f"--pid=/proc/{self.pid}/ns/pid_for_children"
        enter = ["nsenter", f"--target={self.pid}", "--net", "--uts", "--mount", table]
        return [*enter, "env", "-C", str(cwd), *(str(word) for word in words)]

    def ip(self, *words: str) -> None:
        """Run `ip` in this host's network."""
        _ip(self.pid, *words)

    def on_switch(self, *words: str) -> None:
        """Run `ip` where the bridge is."""
        _ip(self.switch, *words)

    def set_link(self, state: str) -> None:
        """Plug the host's cable in (`up`) or pull it (`down`): the host itself keeps address and routes."""
        self.on_switch("link", "set", self.name, state)

    def switch_off(self) -> None:
        """End everything on this host at once, without a farewell to the others."""
        os.kill(self.pid, signal.SIGKILL)


@contextmanager
def hosts(folder: Path, *names: str) -> Iterator[list[Host]]:
    """Make linked hosts that know each other by name; skip the test where Linux does not let us.

    Args:
        folder: where the hosts files go.
        names: host names.
    """
    skip_without_hosts()
    with ExitStack() as stack:
        made: list[Host] = []
        for number, name in enumerate(names):
            hosts_file = folder / f"hosts_{name}"
            pid = stack.enter_context(_first_process(name, hosts_file))
            switch = made[0].pid if made else pid
            made.append(Host(name, f"{_NETWORK}.{10 + number}", pid, hosts_file, switch))
        entries = [f"{host.address} {host.name}" for host in made]
        for host in made:
            host.hosts_file.write_text("\n".join(["127.0.0.1 localhost", *entries, ""]))
        _link(made)
        yield made


def skip_without_hosts() -> None:
    """Skip the test where this process may not make hosts, and say why."""
    missing = [tool for tool in ("unshare", "nsenter", "ip", "hostname") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"hosts in namespaces need {', '.join(missing)} (util-linux, iproute2, hostname)")
    tried = subprocess.run(
        ["unshare", *_OWN, "ip", "link", "add", "br0", "type", "bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"this process may not make hosts in namespaces: {tried.stderr.strip()}")


@contextmanager
def _first_process(name: str, hosts_file: Path) -> Iterator[int]:
    hosts_file.write_text("127.0.0.1 localhost\n")
    process = subprocess.Popen(
        ["unshare", *_OWN, "sh", "-c", _FIRST_PROCESS, name, str(hosts_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n", f"host {name} did not start"
        yield process.pid
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def _link(made: list[Host]) -> None:
    """Give the first host a bridge, and every other one a cable to it."""
    first = made[0]
    first.ip("link", "add", "br0", "type", "bridge")
    give_address(first, "br0")
    for host in made[1:]:
        ends = ("link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
        first.ip(*ends)
        first.ip("link", "set", host.name, "master", "br0", "up")
        give_address(host, "eth0")


def give_address(host: Host, interface: str) -> None:
    """Let a host be reached through one of its interfaces."""
    host.ip("address", "add", f"{host.address}/24", "dev", interface)
    host.ip("link", "set", interface, "up")


def _ip(pid: int, *words: str) -> None:
    command = ["nsenter", f"--target={pid}", "--net", "ip", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
