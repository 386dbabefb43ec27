"""Two hosts of one rank each whose names or links are not as they should be."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from jobs import RunConfig, train
from tests.support.cluster import StandaloneCluster, standalone_cluster
from tests.support.host_runs import ONE_RANK_A_HOST, done
from tests.support.hosts import Host, hosts
from tests.support.run_folders import losses
from tests.support.slow_link import slow_link
from tests.support.tiny import CONFIG, tiny_data

pytestmark = pytest.mark.cluster
LONG = (
    "train.epochs=10",
    "train.max_steps=120",
    "train.log_every_steps=20",
    "train.checkpoint_every_steps=20",
    "train.process_group_timeout_seconds=15",
)
LONG_ARGUMENTS = tuple(word for override in LONG for word in ("--set", override))


@dataclass(frozen=True)
class Lab:
    """Hosts with a cluster on them, a config and its data set.

    Attributes:
        driver: host of the master and of commands.
        workers: the other two.
        cluster: on these hosts.
        run: the config.
        config: its file.
        data: the data set.
    """

    driver: Host
    workers: list[Host]
    cluster: StandaloneCluster
    run: RunConfig
    config: Path
    data: Path

    def train(self, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Train on both workers to the end."""
        given = ("train", self.config, "--data", self.data, "--out", out, *arguments)
        on = ("--on", "spark", "--master", self.cluster.url, "--ranks", 2, "--json")
        return self.cluster.shardrec(*given, *on, cwd=self.config.parent, conf=ONE_RANK_A_HOST)

    def alone(self, out: Path, *overrides: str) -> list[float]:
        """Return the losses of the same run in this process."""
        train(self.run.override(*overrides), self.data, out=out, show_progress=False)
        return losses(out)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("faults")
    run = RunConfig.from_dict(CONFIG).override("train.log_every_steps=1", "plan.sharding_types=[row_wise]")
    config = folder / "config.yaml"
    config.write_text(run.to_yaml())
    data = tiny_data(folder / "data", run).path
    with (
        hosts(folder, "driver", "worker-1", "worker-2") as made,
        standalone_cluster(folder, cores_per_worker=2, hosts=made) as cluster,
    ):
        yield Lab(made[0], made[1:], cluster, run, config, data)


@pytest.mark.parametrize("wrong", [["127.0.1.1"], ["10.77.0.99", None]], ids=["loopback", "old-or-none"])
def test_hosts_whose_own_names_lead_elsewhere_train_all_the_same(
    wrong: list[str | None], lab: Lab, tmp_path: Path
) -> None:
    everyone = [*lab.workers, lab.driver]
    right = {host: host.hosts_file.read_text() for host in everyone}
    for host, address in zip(everyone, cycle(wrong), strict=False):  # The first is what Debian writes.
        entry = f"{address} {host.name}" if address else ""
        host.hosts_file.write_text(right[host].replace(f"{host.address} {host.name}", entry))
    try:
        assert done(lab.train(tmp_path / "run"))["steps"] == 12
    finally:
        for host in everyone:
            host.hosts_file.write_text(right[host])
    assert losses(tmp_path / "run") == pytest.approx(lab.alone(tmp_path / "alone"), abs=1e-6)


def test_torchrun_on_two_hosts_whose_own_names_lead_to_loopback(lab: Lab, tmp_path: Path) -> None:
    """By the command of docs/clusters.md; the first rank's name is loopback on its own host."""
    programs = Path(sys.executable).parent
    first = lab.workers[0]
    torchrun = [programs / "torchrun", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
    rank = ["--no-python", programs / "shardrec", "train", lab.config, "--data", lab.data]
    words = [
        *torchrun,
        f"--rdzv-endpoint={first.name}:29500",
        *rank,
        "--on",
        "torchrun",
        "--out",
        tmp_path / "run",
    ]
    right = {host: host.hosts_file.read_text() for host in lab.workers}
    for host in lab.workers:
        own = right[host].replace(f"{host.address} {host.name}", f"127.0.1.1 {host.name}")
        host.hosts_file.write_text(own)
    try:
        agents = [
            subprocess.Popen(
                host.command(*words, cwd=tmp_path),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for host in lab.workers
        ]
        said = [agent.communicate(timeout=300)[0] for agent in agents]
    finally:
        for host in lab.workers:
            host.hosts_file.write_text(right[host])
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert losses(tmp_path / "run") == pytest.approx(lab.alone(tmp_path / "alone"), abs=1e-6)


def test_a_slow_link_that_loses_packets_changes_no_loss(lab: Lab, tmp_path: Path) -> None:
    with slow_link(lab.workers[1], delay_seconds=0.025, loss=0.01) as frames:
        assert done(lab.train(tmp_path / "run"))["steps"] == 12
    assert frames["lost"] > 0
    assert losses(tmp_path / "run") == pytest.approx(lab.alone(tmp_path / "alone"), abs=1e-6)


def test_a_cut_link_ends_the_run_and_training_goes_on_when_it_is_back(lab: Lab, tmp_path: Path) -> None:
    out, worker = tmp_path / "run", lab.workers[1]
    try:
        failed = _harmed_while_training(lab, out, lambda: worker.set_link("down"))
    finally:
        worker.set_link("up")
    assert failed["kind"] == "RankError"
    assert "the ranks lost each other" in failed["error"]
    assert any(f"worker-{number}" in failed["where"] for number in (1, 2))
    saved = len(list((out / "checkpoints").glob("step_*")))
    assert 0 < saved < 6
    assert done(lab.train(out, "--resume", *LONG_ARGUMENTS))["steps"] == 120
    assert losses(out)[-1] == pytest.approx(lab.alone(tmp_path / "alone", *LONG)[-1], abs=1e-4)


def test_a_host_that_is_gone_is_named(lab: Lab, tmp_path: Path) -> None:
    """The last test of this file: the cluster has one worker afterwards."""
    failed = _harmed_while_training(lab, tmp_path / "run", lab.workers[1].switch_off)
    assert failed["kind"] == "RankError"
    assert "on host worker-2 ended without a word" in failed["error"]


def _harmed_while_training(lab: Lab, out: Path, harm: Callable[[], None]) -> dict[str, Any]:
    """Do harm when the first checkpoint is there, and return the error of the command."""
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(lab.train, out, *LONG_ARGUMENTS)
        while not training.done() and not list((out / "checkpoints").glob("step_*")):
            time.sleep(0.02)
        harm()
        failed = training.result()
    assert failed.returncode == 1, failed.stdout + failed.stderr
    return dict(json.loads(failed.stdout))
