"""`shardrec doctor` on this machine, and where what it needs itself is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.conftest import ROOT, shardrec

ENTRY = "import sys; from jobs.entry import main; sys.argv[0] = 'shardrec'; sys.exit(main())"


def installed(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command with other variables."""
    command = [sys.executable, "-c", ENTRY, *arguments]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=300)


def broken(folder: Path, package: str) -> str:
    """Return a PYTHONPATH in which a package fails to import."""
    module = folder / package / "__init__.py"
    module.parent.mkdir(parents=True)
    module.write_text('raise ImportError("lib.so: undefined symbol: x")\n')
    return f"{folder}{os.pathsep}{ROOT}"


def test_spark_and_ranks_are_tried(tmp_path: Path) -> None:
    done = shardrec("doctor", "--json", cwd=tmp_path)
    found = {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0, done.stdout
    assert {"torch works", "Spark works", "ranks meet"} <= {
        n for n, f in found.items() if f["state"] == "fine"
    }
    assert "Traceback" not in done.stderr


def test_a_torch_that_does_not_import_is_named_by_a_doctor_that_needs_none(tmp_path: Path) -> None:
    done = installed("doctor", PYTHONPATH=broken(tmp_path, "torch"))
    assert done.returncode == 1
    [line] = [line for line in done.stdout.splitlines() if line.startswith("FAULT")]
    assert line.split(maxsplit=3) == ["FAULT", "torch", "works", "ImportError: lib.so: undefined symbol: x"]
    assert "Traceback" not in done.stderr


def test_other_verbs_send_to_the_doctor(tmp_path: Path) -> None:
    variables = {"PYTHONPATH": broken(tmp_path, "pyarrow")}
    done = installed("models", **variables)
    assert done.returncode == 1
    assert "lib.so: undefined symbol: x" in done.stderr
    assert "shardrec doctor" in done.stderr
    done = installed("doctor", "--quick", **variables)
    assert done.returncode == 0
    assert "pyarrow" in done.stdout
