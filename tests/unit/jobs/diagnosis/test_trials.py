"""What torch sees beside what the driver has; errors of processes that fail; the texts of findings."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.diagnosis import trials
from jobs.diagnosis.findings import Finding, text_of, value_of
from jobs.diagnosis.trials import gpu_findings


def torch(cuda: str | None, *gpus: str, error: str = "") -> dict[str, Any]:
    return {"cuda": cuda, "gpus": list(gpus), "error": error}


@pytest.mark.parametrize(
    ("seen", "driver", "visible", "state", "said"),
    [
        (torch(None), [], None, "fine", "CPU build"),
        (torch("13.0", "H200", "H200"), ["H200", "H200"], None, "fine", "2 x H200, CUDA 13.0"),
        (torch(None), ["H200"], None, "fault", "torch is a CPU build"),
        (torch("13.0"), ["H200"], "", "fault", "CUDA_VISIBLE_DEVICES='' hides it"),
        (torch("13.0"), ["H200"], None, "fault", "sees none of the driver's 1"),
        (torch("13.0"), [], None, "note", "built for CUDA 13.0"),
        (
            torch("13.0", "H200", error="CUDA error: no kernel image"),
            ["H200"],
            None,
            "fault",
            "no kernel image",
        ),
    ],
)
def test_gpus(seen: dict[str, Any], driver: list[str], visible: str | None, state: str, said: str) -> None:
    [found] = gpu_findings(seen, driver, visible)
    assert found.state == state
    assert said in found.said
    assert bool(found.fixes) == (state != "fine")


def test_the_error_of_a_process_is_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trials._tried("import json; print(json.dumps({'a': 1}))") == ({"a": 1}, "")
    found, error = trials._tried("raise ImportError('libcudart.so.13: cannot open shared object file')")
    assert found is None
    assert error == "ImportError: libcudart.so.13: cannot open shared object file"
    found, error = trials._tried("import os; os._exit(7)")
    assert (found, error) == (None, "it ended with exit code 7")
    monkeypatch.setattr(trials, "_SECONDS", 0.3)
    found, error = trials._tried("import time; time.sleep(30)")
    assert (found, error) == (None, "no answer within 0 seconds")


@pytest.mark.parametrize(
    ("build", "driver", "first_fix"),
    [
        ("fbgemm-gpu", [], "docker run --gpus all"),
        ("fbgemm-gpu", ["NVIDIA H200"], "constraints.txt"),
        ("fbgemm-gpu-cpu", [], "constraints.txt"),
    ],
)
def test_a_gpu_build_without_a_driver(
    build: str, driver: list[str], first_fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trials, "_tried", lambda _: (None, "OSError: Could not load this library: fbgemm_gpu_py.so")
    )
    monkeypatch.setattr(trials, "_gpus_of_driver", lambda: driver)
    [found] = trials.trial_findings({build: "1.8.0"}, visible_gpus=None)
    assert (found.subject, found.state) == ("torch works", "fault")
    assert first_fix in found.fixes[0]


def test_the_error_of_a_rank_is_its_own_and_not_that_of_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_RANK", "raise ValueError('no such interface')")
    [found] = trials._ranks_finding()
    assert (found.state, found.said) == ("fault", "ValueError: no such interface")


def test_findings_as_text_and_as_value() -> None:
    found = [
        Finding("Java", "fine", "17"),
        Finding("host name", "note", "loopback", ("nothing", "an address")),
        Finding("torch", "fault", "missing", ("install it",)),
    ]
    assert text_of(found).splitlines() == [
        "ok    Java       17",
        "note  host name  loopback",
        "                 1) nothing",
        "                 2) an address",
        "FAULT torch      missing",
        "                 1) install it",
        "",
        "1 fault(s), 1 note(s)",
    ]
    assert text_of(found[:1]).endswith("nothing is wrong")
    assert value_of(found)["faults"] == 1
    assert value_of(found)["findings"][1]["fixes"] == ("nothing", "an address")
