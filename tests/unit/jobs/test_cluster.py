"""The shape of a cluster: counted from slots, hosts and GPUs; and the session that reaches it."""

from __future__ import annotations

import io
from argparse import ArgumentParser, Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jobs import RunConfig, session
from jobs import cluster as cluster_module
from jobs.cluster import Cluster
from jobs.commands.base import cluster_of, launch_arguments, run_of
from jobs.hardware import catalogue_of, with_own_figures
from jobs.ranks import slots
from jobs.session import session_settings
from sharding.errors import UserError
from sharding.hardware import find_hardware


class Executors:
    """A session whose executors are given as (host, cores)."""

    def __init__(self, *executors: tuple[str, int], **settings: str) -> None:
        entries = [("driver", "driver-host", 0)] if executors else [("driver", "driver-host", 2)]
        entries += [(str(number), host, cores) for number, (host, cores) in enumerate(executors)]
        found = [
            SimpleNamespace(
                id=lambda e=e: e[0], hostPort=lambda e=e: f"{e[1]}:4040", totalCores=lambda e=e: e[2]
            )
            for e in entries
        ]
        store = SimpleNamespace(
            executorList=lambda active: SimpleNamespace(apply=found.__getitem__, size=lambda: len(found))
        )
        total = sum(entry[2] for entry in entries)
        context = SimpleNamespace(
            statusStore=lambda: store,
            resourceProfileManager=lambda: SimpleNamespace(defaultResourceProfile=lambda: None),
            maxNumConcurrentTasks=lambda profile: total,
        )
        self.sparkContext = SimpleNamespace(_jsc=SimpleNamespace(sc=lambda: context))
        named = {f"spark.{key.replace('__', '.')}": value for key, value in settings.items()}
        self.conf = SimpleNamespace(get=lambda key, default=None: named.get(key, default))


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let time pass only when someone sleeps."""
    clock = [0.0]
    monkeypatch.setattr(slots.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(slots.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    return clock


def from_spark(spark: Any, **arguments: Any) -> tuple[int, int]:
    shape = Cluster.from_spark(spark, **arguments)
    assert (shape.on, shape.spark) == ("spark", spark)
    return shape.nodes, shape.local_world_size


@pytest.mark.parametrize(
    ("executors", "ranks", "expected"),
    [
        ([("a", 2), ("b", 2)], None, (2, 2)),
        ([("a", 1), ("a", 1), ("b", 2)], None, (2, 2)),
        ([("a", 1), ("a", 1)], None, (1, 2)),
        ([("a", 4)], 2, (1, 2)),  # One host, whichever slots are taken.
        ([("a", 2), ("b", 2)], 2, (2, 1)),  # Spark may fill one host or both.
        ([("a", 3), ("b", 1)], None, (4, 1)),
        ([], None, (1, 2)),  # local[2]
    ],
)
def test_hosts_are_counted_from_the_executors(
    no_waiting: list[float], executors: list[tuple[str, int]], ranks: int | None, expected: tuple[int, int]
) -> None:
    assert from_spark(Executors(*executors), ranks=ranks) == expected


def test_slots_are_counted_when_no_more_executors_come(
    monkeypatch: pytest.MonkeyPatch, no_waiting: list[float]
) -> None:
    def registered(spark: Any, per_task: int) -> int:
        return 0 if no_waiting[0] < 2 else 1 if no_waiting[0] < 5 else 3

    monkeypatch.setattr(slots, "spark_slots", registered)
    said = io.StringIO()
    assert slots.settled_slots(Executors(), 60, said) == 3
    assert no_waiting[0] >= 5 + slots._SETTLE_SECONDS
    assert said.getvalue() == "Waiting for executors: 0 slots are there.\n"


def test_a_cluster_without_executors_is_an_error_after_a_while(
    monkeypatch: pytest.MonkeyPatch, no_waiting: list[float]
) -> None:
    monkeypatch.setattr(slots, "spark_slots", lambda spark, per_task: 0)
    with pytest.raises(UserError, match="no executor has registered within 60 s") as caught:
        Cluster.from_spark(Executors(master="spark://m:7077"))
    assert caught.value.got == "0 slots on spark://m:7077"
    assert no_waiting[0] < 70


def test_spark_connect_needs_the_number_of_ranks() -> None:
    connect: Any = SimpleNamespace(conf=SimpleNamespace(get=lambda key, default=None: default))
    with pytest.raises(UserError, match="Spark Connect"):
        Cluster.from_spark(connect)
    assert from_spark(connect, ranks=4) == (4, 1)


def test_tasks_with_several_gpus_hold_a_rank_for_each(
    monkeypatch: pytest.MonkeyPatch, no_waiting: list[float]
) -> None:
    monkeypatch.setattr("pyspark.__version__", "4.2.0")
    executors = Executors(("a", 1), ("b", 1), task__resource__gpu__amount="8")
    assert from_spark(executors, gpu="h100") == (2, 8)
    with pytest.raises(UserError, match="each Spark task starts 8 ranks"):
        Cluster.from_spark(executors, ranks=12, gpu="h100")


@pytest.mark.parametrize("gpu", [None, "a100-80"])
def test_ranks_per_host_shape_cpu_and_gpu_clusters_alike(gpu: str | None) -> None:
    executors = Executors(("a", 8))
    assert from_spark(executors, ranks=8, gpu=gpu, ranks_per_host=4) == (2, 4)
    assert from_spark(executors, ranks=8, gpu=gpu, ranks_per_host=1) == (8, 1)
    with pytest.raises(UserError, match="same number of ranks") as caught:
        Cluster.from_spark(executors, 8, gpu, ranks_per_host=3)
    assert caught.value.allowed == [1, 2, 4, 8]
    assert caught.value.fixes == ("ranks=6",)


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(cluster_module, "_gpu_of_this_machine", lambda: find_hardware("h100"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_more_ranks_than_gpus_on_this_host_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 1)
    with pytest.raises(UserError, match="fewer GPUs than ranks") as caught:
        Cluster.local(2)
    assert caught.value.got == "2 ranks, 1 GPUs"
    assert caught.value.fixes[0] == "--ranks 1"
    on_cpu = Cluster.local(2, device="cpu")
    assert (on_cpu.device, on_cpu.world_size, on_cpu.on) == ("cpu", 2, "local")
    assert Cluster.local().device == "cuda"


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_gpu_of_this_machine", lambda: None)
    with pytest.raises(UserError, match="no usable GPU"):
        Cluster.local(device="cuda")


@pytest.mark.parametrize(("here", "expected"), [(8, (2, 8)), (16, (1, 16)), (6, (16, 1))])
def test_torchrun_tells_how_many_ranks_are_on_this_host(
    monkeypatch: pytest.MonkeyPatch, here: int, expected: tuple[int, int]
) -> None:
    variables = {"RANK": 0, "WORLD_SIZE": 16, "MASTER_ADDR": "a", "MASTER_PORT": 1, "LOCAL_WORLD_SIZE": here}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    with_gpus(monkeypatch, 16)
    shape = Cluster.local(16, on="torchrun")
    assert (shape.nodes, shape.local_world_size) == expected


def on_torchrun(ranks: int | None) -> int:
    return cluster_of(where("--on", "torchrun", *(["--ranks", str(ranks)] if ranks else []))).world_size


def where(*options: str) -> Namespace:
    parser = ArgumentParser()
    launch_arguments(parser)
    return parser.parse_args(options)


def test_gpu_ranks_on_spark_are_named_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, no_waiting: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    executors = Executors(("a", 8), ("b", 8), task__resource__gpu__amount="1")
    monkeypatch.setattr(session, "spark_session", lambda *_, **__: executors)
    shape = cluster_of(where("--on", "spark", "--ranks", "8", "--gpu", "h100", "--ranks-per-host", "4"))
    assert (shape.nodes, shape.gpus_per_node, shape.gpu, shape.device) == (2, 4, "h100", "cuda")
    assert not capsys.readouterr().err
    # Nobody named a GPU.
    assert cluster_of(where("--on", "spark", "--ranks", "16")).device == "cpu"
    assert "ranks compute on the CPU: name it, --gpu" in capsys.readouterr().err
    with pytest.raises(UserError, match="no such entry"):
        cluster_of(where("--on", "spark", "--gpu", "h10"))


def test_a_gpu_of_the_config_alone_is_named_like_others(
    monkeypatch: pytest.MonkeyPatch, run: RunConfig, tmp_path: Path
) -> None:
    executors = Executors(("a", 8), task__resource__gpu__amount="1")
    monkeypatch.setattr(session, "spark_session", lambda *_, **__: executors)
    config = run.override(
        "plan.hardware.gpus={H20: {like: h200, hbm_gib: 96}, h100: {hbm_gib: 94}}",
        "plan.hardware.machines={our-node: {gpu: h20, gpus: 8}}",
    )
    options = ("--on", "spark", "--ranks", "8", "--ranks-per-host", "8", "--gpu")
    for name, spelt, memory in (("h20", "H20", 96), ("h100", "H100", 94)):
        shape = with_own_figures(cluster_of(where(*options, spelt), config), config.plan.hardware)
        assert (shape.gpu, shape.on, shape.rank_hardware.hbm_gib) == (name, "spark", memory)
        assert shape.rank_hardware == catalogue_of(config.plan.hardware).hardware[name]
    # A finished run has its config with it.
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    later = Namespace(**vars(where(*options, "h20")), run_folder=str(tmp_path))
    assert cluster_of(later, run_of(later)).rank_hardware.hbm_gib == 96
    with pytest.raises(UserError, match="not the machines") as caught:
        cluster_of(where(*options, "our-node"), config)
    assert caught.value.fixes == ("--gpu h20",)
    with pytest.raises(UserError, match="no such entry") as caught:
        cluster_of(where(*options, "h2O"), config)
    assert (caught.value.where, caught.value.fixes) == ("--gpu", ("did you mean 'h20'?",))


@pytest.mark.parametrize("option", ["--master", "--gpu", "--ranks-per-host"])
def test_options_of_spark_are_refused_elsewhere(option: str) -> None:
    with pytest.raises(UserError, match=f"{option} belongs to --on spark"):
        cluster_of(where("--ranks", "2", option, "1"))


def test_a_world_size_that_torchrun_did_not_set_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(cluster_module, "_gpu_of_this_machine", lambda: None)
    assert (on_torchrun(2), on_torchrun(None)) == (2, 1)


def test_under_torchrun_its_number_of_ranks_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 0, "WORLD_SIZE": 4, "MASTER_ADDR": "a", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(cluster_module, "_gpu_of_this_machine", lambda: None)
    assert (on_torchrun(None), on_torchrun(4)) == (4, 4)
    with pytest.raises(UserError, match="another number of ranks"):
        on_torchrun(2)


LOOPBACK = {"spark.driver.host", "spark.driver.bindAddress"}


def test_only_local_sessions_get_loopback_and_a_share_of_this_machine() -> None:
    local = session_settings("local[2]", {}, {})
    assert {"spark.driver.memory", "spark.ui.enabled", *LOOPBACK} <= local.keys()
    remote = session_settings("yarn", {}, {})
    assert not {"spark.driver.memory", "spark.ui.enabled", "spark.sql.shuffle.partitions", *LOOPBACK} & set(
        remote
    )
    for settings in (local, remote):
        assert settings["spark.sql.session.timeZone"] == "UTC"


def test_what_is_configured_already_is_kept() -> None:
    configured = {"spark.driver.memory": "3g", "spark.driver.host": "h", "spark.sql.session.timeZone": "CET"}
    settings = session_settings("local[2]", {}, configured)
    assert not {"spark.driver.memory", "spark.driver.host"} & set(settings)
    assert settings["spark.sql.session.timeZone"] == "UTC"
    assert not LOOPBACK & set(session_settings("local[2]", {"SPARK_LOCAL_IP": "10.0.0.1"}, {}))


def test_spark_defaults_are_read_as_spark_reads_them(tmp_path: Path) -> None:
    lines = ["# spark.a 1", "spark.master   spark://m:7077", "spark.b=2", "", "  spark.c : x y=z"]
    lines.append("spark.driver.extraJavaOptions -Da=b")
    (tmp_path / "spark-defaults.conf").write_text("\n".join(lines))
    found = session._spark_defaults({"SPARK_CONF_DIR": str(tmp_path)})
    options = {"spark.driver.extraJavaOptions": "-Da=b"}
    assert found == {"spark.master": "spark://m:7077", "spark.b": "2", "spark.c": "x y=z"} | options
    assert session_settings("yarn", {}, found)["spark.driver.extraJavaOptions"].endswith(" -Da=b")
    assert session._spark_defaults({}) == {}


def test_the_driver_takes_the_address_on_the_way_to_the_master() -> None:
    assert session._address_towards("spark://127.0.0.1:7077,other:7077") == "127.0.0.1"
    assert session._address_towards("spark://no-such-host.invalid:7077") is None
    master = "spark://127.0.0.1:7077"
    assert session_settings(master, {}, {})["spark.driver.host"] == "127.0.0.1"
    assert not LOOPBACK & session_settings(master, {"SPARK_LOCAL_IP": "10.0.0.1"}, {}).keys()
    assert not LOOPBACK & session_settings(master, {}, {"spark.driver.host": "h"}).keys()
