"""`make setup` in a copy of the Makefile: which environment it keeps or makes anew, and what it asks uv for.

uv and the Pythons are scripts that write down how they are called, so nothing is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.architecture.source import ROOT

MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="needs make")

UV = """#!/bin/sh
[ "$3" = --help ] && { echo "--torch-backend"; exit; }
echo "$@" >> "$UV_CALLS"
[ "$1" = venv ] || exit 0
for folder; do :; done
mkdir -p "$folder/bin"
while [ "$1" != --python ]; do shift; done
ln -s "$2" "$folder/bin/python"
"""
# Says that it is in range, and where its standard library lies.
PYTHON = """#!/bin/sh
case "$2" in
  *version_info*) echo "$0" ;;
  *__file__*) echo "{library}/os.py" ;;
esac
"""


@dataclass(frozen=True)
class Checkout:
    """A folder with the Makefile and what it depends on, and the scripts that stand for the tools."""

    folder: Path
    tools: Path

    def make(self, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
        # Nothing of the make that may have started these tests: it would hand on its own EXTRAS.
        environment = {
            "PATH": f"{path}{self.tools}{os.pathsep}/usr/bin{os.pathsep}/bin",
            "UV_CALLS": str(self.tools / "calls"),
        }
        return subprocess.run(
            [str(MAKE), *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> str:
        log = self.tools / "calls"
        return log.read_text(encoding="utf-8") if log.exists() else ""

    def environment(self, *extras: str, name: str = ".venv", python: str = "python3.11") -> Path:
        """Write an environment as an earlier `make setup` leaves it, with a file to know it by."""
        folder = self.folder / name
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").symlink_to(self.tools / python)
        (folder / f".setup-{'-'.join(extras)}").touch()
        (folder / "mine").touch()
        return folder

    def stamps(self, name: str = ".venv") -> list[str]:
        return sorted(path.name for path in (self.folder / name).glob(".setup-*"))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path / "checkout", tmp_path / "tools")
    made.folder.mkdir()
    made.tools.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "constraints-newest.txt"):
        shutil.copyfile(ROOT / name, made.folder / name)
        os.utime(made.folder / name, (1_000_000_000, 1_000_000_000))
    scripts = {"uv": UV} | {n: PYTHON.format(library=f"/lib/{n}") for n in ("python3.11", "python3.12")}
    for name, text in scripts.items():
        (made.tools / name).write_text(text, encoding="utf-8")
        (made.tools / name).chmod(0o755)
    return made


@pytest.mark.parametrize(("name", "arguments"), [(".venv", ()), (".venv-newest", ("ENV=newest",))])
def test_a_plain_make_keeps_an_environment_that_was_set_up_with_other_extras(
    checkout: Checkout, name: str, arguments: tuple[str, ...]
) -> None:
    folder = checkout.environment("gpu", "quickstart", "dev", name=name)
    for target in ("setup", "test-gpu", "test", "quickstart"):
        planned = checkout.make("-n", target, *arguments)
        assert planned.returncode == 0, planned.stderr
        assert "uv" not in planned.stdout
    done = checkout.make("setup", *arguments)
    assert done.returncode == 0, done.stderr
    assert (folder / "mine").exists()
    assert checkout.calls() == ""


def test_the_quickstart_is_the_command_that_the_tests_run(checkout: Checkout) -> None:
    checkout.environment("cpu", "dev")
    assert checkout.make("-n", "quickstart").stdout.split() == [".venv/bin/shardrec", "quickstart"]


def test_torch_is_compiled_once_where_processes_may_not_keep_it(checkout: Checkout) -> None:
    checkout.make("setup", "PYTHONDONTWRITEBYTECODE=1")
    assert "pip install --compile-bytecode --python" in checkout.calls()


def test_new_constraints_are_installed_with_the_extras_that_are_there(checkout: Checkout) -> None:
    folder = checkout.environment("gpu", "petastorm", "dev")
    os.utime(folder / ".setup-gpu-petastorm-dev", (900_000_000, 900_000_000))
    done = checkout.make("setup")
    assert done.returncode == 0, done.stderr
    assert (folder / "mine").exists()
    assert checkout.stamps() == [".setup-gpu-petastorm-dev"]
    assert "--editable .[gpu,petastorm,dev]" in checkout.calls()
    # The CPU build of torch is for the cpu extra alone.
    assert "--torch-backend=cpu" not in checkout.calls()


def test_extras_that_are_named_make_the_environment_anew(checkout: Checkout) -> None:
    folder = checkout.environment("gpu", "petastorm", "dev")
    done = checkout.make("setup", "EXTRAS=cpu,dev")
    assert done.returncode == 0, done.stderr
    assert not (folder / "mine").exists()
    assert checkout.stamps() == [".setup-cpu-dev"]
    assert "--editable .[cpu,dev]" in checkout.calls()


def test_without_an_environment_the_usual_extras_are_installed(checkout: Checkout) -> None:
    done = checkout.make("setup")
    assert done.returncode == 0, done.stderr
    assert "--editable .[cpu,petastorm,quickstart,docs,dev]" in checkout.calls()
    again = checkout.make("-n", "test")
    assert "uv" not in again.stdout


def test_a_python_that_is_named_replaces_an_environment_of_another_one(checkout: Checkout) -> None:
    folder = checkout.environment("cpu", "dev", python="python3.11")
    done = checkout.make("setup", "PYTHON=python3.12")
    assert done.returncode == 0, done.stderr
    assert "another Python than python3.12" in done.stderr
    assert not (folder / "mine").exists()
    assert (folder / "bin" / "python").readlink() == checkout.tools / "python3.12"
    # The extras stay those that were there.
    assert checkout.stamps() == [".setup-cpu-dev"]


def test_the_python_that_is_inside_already_changes_nothing(checkout: Checkout) -> None:
    folder = checkout.environment("cpu", "dev", python="python3.11")
    done = checkout.make("setup", "PYTHON=python3.11")
    assert done.returncode == 0, done.stderr
    assert (folder / "mine").exists()
    assert checkout.calls() == ""


def test_a_python_that_does_not_run_is_an_error_and_the_environment_stays(checkout: Checkout) -> None:
    folder = checkout.environment("cpu", "dev")
    done = checkout.make("setup", "PYTHON=python9")
    assert done.returncode == 2
    assert "shardrec needs Python 3.10, 3.11 or 3.12" in done.stderr
    assert (folder / "mine").exists()
    assert checkout.calls() == ""


def test_an_activated_environment_can_be_made_anew(checkout: Checkout) -> None:
    folder = checkout.folder / ".venv"
    venv.create(folder, with_pip=False)
    (folder / ".setup-cpu-dev").touch()
    for name in ("python3.11", "python3.12"):
        (checkout.tools / name).unlink()
        if not (folder / "bin" / name).exists():
            (folder / "bin" / name).symlink_to("python")
    done = checkout.make("setup", "EXTRAS=gpu", path=f"{folder / 'bin'}{os.pathsep}")
    assert done.returncode == 0, done.stderr
    # Not the environment's own Python, which is gone by then.
    used = checkout.calls().split("--python ")[1].split()[0]
    assert not Path(used).is_relative_to(folder)
    assert Path(used).resolve() == Path(sys.executable).resolve()
