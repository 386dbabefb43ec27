"""Versions that do not fit each other are named, and what to install."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.diagnosis.findings import Finding
from jobs.diagnosis.packages import LEAST, installed, package_findings, python_findings

GOOD = {
    "torch": "2.13.0+cpu",
    "torchrec": "1.8.0",
    "fbgemm-gpu-cpu": "1.8.0",
    "pyspark": "4.0.5",
    "pyarrow": "14.0.2",
    "pandas": "2.3.3",
    "numpy": "1.26.4",
    "petastorm": "0.13.1",
    "setuptools": "80.9.0",
}


def of(subject: str, versions: dict[str, str]) -> Finding:
    [found] = [finding for finding in package_findings(versions) if finding.subject == subject]
    return found


def test_the_versions_of_this_environment_fit() -> None:
    assert {finding.state for finding in package_findings(installed())} == {"fine"}


def test_versions_that_fit_are_told() -> None:
    assert [finding.state for finding in package_findings(GOOD)] == ["fine"] * 3
    assert of("torch", GOOD).said == "torch 2.13.0+cpu, torchrec 1.8.0, fbgemm-gpu-cpu 1.8.0"


@pytest.mark.parametrize(
    ("torch", "other"), [("2.13.0", "1.8.0"), ("2.12.1", "1.7.0"), ("2.11.0+cu130", "1.6.1")]
)
def test_each_torch_has_its_torchrec_and_fbgemm(torch: str, other: str) -> None:
    versions = {"torch": torch, "torchrec": other, "fbgemm-gpu": other}
    assert of("torch", GOOD | versions | {"fbgemm-gpu-cpu": other}).state == "fault"  # both builds
    assert of("torch", {"pyspark": "4.0.5"} | versions).state == "fine"


@pytest.mark.parametrize(
    ("wrong", "subject", "said", "fix"),
    [
        ({"torchrec": "1.7.0"}, "torch", "torchrec and FBGEMM 1.8", "torchrec==1.8.*"),
        ({"fbgemm-gpu-cpu": "1.6.0"}, "torch", "torchrec and FBGEMM 1.8", "fbgemm-gpu-cpu==1.8.*"),
        ({"fbgemm-gpu": "1.8.0"}, "torch", "both builds of FBGEMM", "pip uninstall -y fbgemm-gpu"),
        ({"pyspark": "4.1.0"}, "Spark", "needs pyarrow 15", "constraints.txt"),
        ({"pyspark": "4.3.1", "pyarrow": "17.0.0"}, "Spark", "needs pyarrow 18", "constraints.txt"),
        ({"pyspark": "3.4.0"}, "Spark", "pyspark 3.5 or newer", "constraints.txt"),
        ({"pandas": "3.0.0"}, "Spark", "pandas 3", "constraints.txt"),
        ({"numpy": "2.1.0"}, "Spark", "numpy below 2", "constraints.txt"),
        ({"pandas": "1.5.3"}, "Spark", "pandas 2.0 or newer", "constraints.txt"),
        ({"numpy": "1.23.5"}, "Spark", "numpy 1.25 or newer", "constraints.txt"),
        ({"pyarrow": "14.0.0"}, "Spark", "pyarrow 14.0.1 or newer", "constraints.txt"),
        ({"pyarrow": "18.0.0"}, "petastorm", "pyarrow below 15", "constraints.txt"),
        ({"setuptools": "82.0.0"}, "petastorm", "pkg_resources", "constraints.txt"),
    ],
)
def test_versions_that_do_not_fit(wrong: dict[str, str], subject: str, said: str, fix: str) -> None:
    found = of(subject, GOOD | wrong)
    assert found.state == "fault"
    assert said in found.said
    assert fix in found.fixes[0]


def test_the_oldest_versions_are_those_of_pyproject() -> None:
    text = (Path(__file__).parents[4] / "pyproject.toml").read_text()
    assert dict(re.findall(r'"(pyarrow|pandas|numpy)>=([\d.]+)', text)) == LEAST


@pytest.mark.parametrize(
    ("missing", "subject"), [("torchrec", "torch"), ("fbgemm-gpu-cpu", "torch"), ("pyarrow", "Spark")]
)
def test_what_is_not_installed_is_named(missing: str, subject: str) -> None:
    found = of(subject, {name: version for name, version in GOOD.items() if name != missing})
    assert found.state == "fault"
    assert missing in found.said


def test_a_torch_that_nobody_has_tested_is_a_note() -> None:
    assert of("torch", GOOD | {"torch": "2.15.0"}).state == "note"


@pytest.mark.parametrize(
    ("version", "state"), [((3, 9), "fault"), ((3, 10), "fine"), ((3, 12), "fine"), ((3, 13), "fault")]
)
def test_python_is_in_range(version: tuple[int, int], state: str) -> None:
    [found] = python_findings(version, "python")
    assert found.state == state
