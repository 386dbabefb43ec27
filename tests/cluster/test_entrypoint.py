"""The images' entry point starts what Spark and people name, and Kubernetes' executor takes its options."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import REPOSITORY, spark_environment

pytestmark = pytest.mark.cluster
DEPLOY = "org.apache.spark.deploy"
ENTRYPOINT = REPOSITORY / "docker" / "entrypoint.sh"
# What Spark on Kubernetes gives the container of an executor, of a driver that is not there.
OF_POD = {
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@127.0.0.1:9",
    "SPARK_EXECUTOR_ID": "3",
    "SPARK_EXECUTOR_CORES": "2",
    "SPARK_EXECUTOR_MEMORY": "256m",
    "SPARK_APPLICATION_ID": "spark-0123",
    "SPARK_EXECUTOR_POD_IP": "127.0.0.1",
    "SPARK_EXECUTOR_POD_NAME": "train-exec-3",
    "SPARK_RESOURCE_PROFILE_ID": "0",
    "SPARK_JAVA_OPT_0": "-Dof.spark=first",
    "SPARK_JAVA_OPT_1": "-Dspark.driver.port=9",
    "SPARK_DRIVER_BIND_ADDRESS": "10.0.0.7",
}


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ENTRYPOINT, *words],
        env=os.environ | OF_POD | {"HOSTNAME": "here"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("words", "program", "started"),
    [
        (
            ["master", "--port", "1"],
            "spark-class",
            f"{DEPLOY}.master.Master --host here --port 1",
        ),
        (
            ["worker", "spark://m:7077", "--cores", "1"],
            "spark-class",
            f"{DEPLOY}.worker.Worker --host here --work-dir /tmp/spark spark://m:7077 --cores 1",
        ),
        (
            ["driver", "--class", "x.Y", "local:///opt/main.py"],
            "spark-submit",
            "--conf spark.driver.bindAddress=10.0.0.7 --deploy-mode client --class x.Y local:///opt/main.py",
        ),
        (["train", "my config.yaml", "--ranks", "2"], "shardrec", "train my config.yaml --ranks 2"),
        (["--help"], "shardrec", "--help"),
    ],
)
def test_words_start_programs(words: list[str], program: str, started: str, tmp_path: Path) -> None:
    for name in ("spark-class", "spark-submit", "shardrec"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name}: $*"\n')
        (tmp_path / name).chmod(0o755)
    done = run(*words, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (0, f"{program}: {started}\n")


def test_the_executor_of_kubernetes_takes_its_options(tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    real = f"{spark_environment()['JAVA_HOME']}/bin/java"
    java.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\nexec {real} "$@"\n')
    java.chmod(0o755)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = run("executor", PATH=path, JAVA_HOME=str(tmp_path), SPARK_CONF_DIR=str(tmp_path))
    said = done.stdout + done.stderr
    words = (tmp_path / "words").read_text().splitlines()
    assert {"-Dof.spark=first", "-Dspark.driver.port=9", "-Xmx256m"} < set(words)
    assert "Unrecognized options" not in said
    # It is an executor by now: what it lacks is its driver.
    assert re.search(r"(Failed to connect to|Cannot find endpoint|Connection refused).*", said), said[-2000:]
