"""The image of docker/ and its cluster of a master and two workers, for real: built and run by podman."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.containers import Engine, container_engine

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
IMAGE = "localhost/shardrec:cpu"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with container_engine(tmp_path_factory.mktemp("containers")) as engine:
        engine.build("docker/Dockerfile.cpu", IMAGE)
        yield engine


def in_container(engine: Engine, *words: object) -> str:
    return engine.run("podman", "run", "--rm", *words).stdout


def test_the_image_is_whole_and_its_user_is_not_root(engine: Engine) -> None:
    assert "usage: shardrec" in in_container(engine, IMAGE)
    found = json.loads(in_container(engine, "--shm-size", "1g", IMAGE, "doctor", "--json"))
    assert {finding["state"] for finding in found["findings"]} == {"fine"}, found
    as_user = in_container(
        engine, "--entrypoint", "sh", IMAGE, "-c", "id -u; touch /shared/own; ls -w 1 /shared"
    )
    assert as_user.split() == ["10001", "own"]


def test_the_quickstart_is_the_same_on_two_workers_as_in_one_process(engine: Engine) -> None:
    volume = ("--volume", "shardrec:/shared")
    alone = metrics(in_container(engine, *volume, IMAGE, "quickstart", "--on", "process", "--json"))
    on_cluster = ("quickstart", "--on", "spark", "--ranks", "2", "--json")
    ran = engine.compose("run", "--rm", "-T", "shardrec", *on_cluster)
    assert "TorchDistributor starts 2 ranks" in ran.stdout + ran.stderr
    assert metrics(ran.stdout)["auc"] == pytest.approx(alone["auc"], abs=5e-4)
    assert alone["auc"] > 0.78
    for name in ("master", "worker1"):
        check_health(engine, f"shardrec_{name}_1")
    engine.compose("down", "--volumes")


def metrics(printed: str) -> dict[str, Any]:
    return json.loads(printed.strip().splitlines()[-1])["metrics"]


def check_health(engine: Engine, container: str) -> None:
    """Check that a daemon is healthy, and is not once it answers no more."""
    asked = ("podman", "healthcheck", "run", container)
    engine.run(*asked)
    signal = "kill -{} $(cat /proc/1/task/1/children)"  # To the daemon, which `tini` has started.
    engine.run("podman", "exec", container, "bash", "-c", signal.format("STOP"))
    assert engine.run(*asked, check=False).returncode != 0
    engine.run("podman", "exec", container, "bash", "-c", signal.format("CONT"))
