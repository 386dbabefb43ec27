"""Containers by podman, with images, networks and volumes in a folder of their own.

No image is fetched: `debootstrap` makes the one that ours begin with, of the same distribution and name. That
needs root, the programs of `PROGRAMS`, and Debian's packages from wherever this machine has them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import oci_runtime

REPOSITORY = Path(__file__).parents[2]
BASE = "docker.io/library/debian:bookworm-slim"
PROGRAMS = ("podman", "buildah", "runc", "netavark", "iptables", "debootstrap")
_PROGRAM_FOLDERS = f"{Path(sys.executable).parent}:/usr/lib/podman:{os.environ['PATH']}"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_SETTINGS = """
[engine]
runtime = "without_limits"
cgroup_manager = "cgroupfs"
events_logger = "file"
[engine.runtimes]
without_limits = ["{runtime}"]
[network]
network_config_dir = "{folder}/networks"
"""
_STORAGE = """
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/running"
"""


@dataclass(frozen=True)
class Engine:
    """podman with a store of its own.

    Attributes:
        folder: everything lies in here.
    """

    folder: Path

    def run(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command such as `podman` with the settings of this store; fail with what it printed."""
        done = subprocess.run(
            [str(word) for word in words],
            cwd=REPOSITORY,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done

    def compose(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` on our file, by podman-compose."""
        return self.run("podman-compose", "--file", "docker/compose.yaml", *words)

    def make_base(self) -> None:
        """Make the image that Dockerfile.cpu begins with; skip the test where that or a container fails."""
        root = self.folder / "root"
        made = self.run("debootstrap", "--variant=minbase", "bookworm", root, check=False)
        if made.returncode:
            pytest.skip(f"debootstrap makes no Debian here: {made.stdout[-300:]}{made.stderr[-300:]}")
        own = root / "usr/local/share/ca-certificates"
        own.mkdir(parents=True, exist_ok=True)
        # What this machine trusts, those on the way to the package indexes too.
        blocks = re.findall(r"-----BEGIN.+?END CERTIFICATE-----\n", _CERTIFICATES.read_text(), re.DOTALL)
        for number, block in enumerate(blocks):
            (own / f"of_host_{number}.crt").write_text(block)
        packed = self.folder / "root.tar"
        self.run("tar", "--directory", root, "--create", "--file", packed, ".")
        self.run("podman", "import", packed, BASE)
        packed.unlink()
        shutil.rmtree(root)
        ran = self.run("podman", "run", "--rm", BASE, "true", check=False)
        if ran.returncode:
            pytest.skip(f"podman runs no container here: {ran.stderr[-300:]}")

    def build(self, dockerfile: str, tag: str) -> None:
        """Build an image, with the wheels of a local folder where pip is told of one."""
        wheels = os.environ.get("PIP_FIND_LINKS", "")
        local = ["--volume", f"{wheels}:{wheels}:ro", "--build-arg", f"FIND_LINKS={wheels}"] if wheels else []
        # Of a container in a container only this isolation is left.
        how = ["--isolation", "chroot", "--network", "host", "--format", "docker"]
        self.run("buildah", "bud", *how, *local, "--file", dockerfile, "--tag", tag, ".")

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": _PROGRAM_FOLDERS,
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "DISABLE_HC_SYSTEMD": "true",  # There is no systemd to ask for health; the tests ask.
        }


@contextmanager
def container_engine(folder: Path) -> Iterator[Engine]:
    """Yield podman with the base image, and remove all of it; skip the test where containers cannot run."""
    if os.geteuid():
        pytest.skip("containers need root here")
    missing = [name for name in PROGRAMS if shutil.which(name, path=_PROGRAM_FOLDERS) is None]
    if missing:
        pytest.skip(f"containers need {', '.join(missing)}")
    runtime = folder / "runtime"
    runtime.write_text(f'#!/bin/sh\nexec {sys.executable} {oci_runtime.__file__} "$@"\n')
    runtime.chmod(0o755)
    (folder / "containers.conf").write_text(_SETTINGS.format(folder=folder, runtime=runtime))
    (folder / "storage.conf").write_text(_STORAGE.format(folder=folder))
    engine = Engine(folder)
    try:
        engine.make_base()
        yield engine
    finally:
        engine.run("podman", "rm", "--all", "--force", "--time", "0", check=False)
        engine.run("podman", "rmi", "--all", "--force", check=False)
        engine.run("podman", "network", "prune", "--force", check=False)
        shutil.rmtree(folder, ignore_errors=True)
