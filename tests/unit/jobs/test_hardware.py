"""The user's own GPUs and machines, from a config and from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import Cluster as Ranks
from jobs import Dataset, RunConfig, plan, train, verbs
from jobs.cli import main
from jobs.hardware import catalogue_of, with_own_figures
from jobs.smallest import node_kinds
from sharding.errors import PlanError
from sharding.hardware import HARDWARE
from sharding.plan import Plan
from sharding.topology import Cluster
from trainer.config import HardwareConfig
from trainer.errors import ConfigError


def own(**sections: object) -> HardwareConfig:
    return HardwareConfig.model_validate(sections)


def test_figures_of_a_known_gpu_are_replaced_and_the_others_stay() -> None:
    catalogue = catalogue_of(own(gpus={"h100": {"hbm_gib": 94.0, "price_per_hour": 2.5}}))
    cluster = Cluster.parse("2x8xh100", catalogue)
    assert (cluster.rank_hardware.hbm_gib, cluster.rank_hardware.hbm_gbps) == (94, 3350)
    assert cluster.price_per_hour == 40
    assert "given by the user" in cluster.rank_hardware.source
    assert HARDWARE["h100"].hbm_gib == 80


def test_every_figure_of_a_gpu_can_be_replaced() -> None:
    figures = {
        name: 1.5
        for name, value in vars(HARDWARE["h100"]).items()
        if isinstance(value, (int, float)) or name == "price_per_hour"
    }
    changed = catalogue_of(own(gpus={"h100": figures})).hardware["h100"]
    assert all(getattr(changed, name) == 1.5 for name in figures)
    assert len(figures) == 12


def test_a_new_machine_takes_what_is_left_out_from_its_gpu() -> None:
    machines = {"our-node": {"gpu": "a100-80", "gpus": 4, "nic_gbps": 100.0, "price_per_hour": 8.0}}
    cluster = Cluster.parse("3xour-node", catalogue_of(own(machines=machines)))
    figures = cluster.rank_hardware
    assert (cluster.world_size, figures.nic_gbps, figures.nvlink_gbps) == (12, 25, 300)
    assert (figures.hbm_gib, figures.host_memory_gib) == (80, 256)
    assert cluster.price_per_hour == pytest.approx(24)


def test_a_machine_may_get_other_gpus_in_any_case_of_their_name() -> None:
    catalogue = catalogue_of(own(machines={"p5.48xlarge": {"gpu": "H200"}}))
    assert Cluster.parse("1xp5.48xlarge", catalogue).rank_hardware.hbm_gib == 141


def test_a_machine_has_the_host_memory_that_the_user_gives_it() -> None:
    machines = {"our-node": {"gpu": "h100", "gpus": 4}, "g5.xlarge": {"host_memory_gbps": 20.0}}
    catalogue = catalogue_of(own(machines=machines))
    assert Cluster.parse("1xour-node", catalogue).rank_hardware.host_memory_gbps == 76.8
    assert Cluster.parse("1xg5.xlarge", catalogue).rank_hardware.host_memory_gbps == 20


@pytest.mark.parametrize(
    ("name", "gpus"), [("2gpu-node", 2), ("8xh100", 8), ("2x8xh100", 16), ("Nœud@1", 1), ("4090", 0)]
)
def test_a_machine_may_have_any_name_that_a_cluster_can_hold(name: str, gpus: int) -> None:
    machines = {name: {"gpu": "h100", "gpus": gpus or 1}}
    if not gpus:
        with pytest.raises(PlanError, match="--cluster cannot take this name") as error:
            catalogue_of(own(machines=machines))
        assert error.value.where == "plan.hardware: machines.4090"
        assert error.value.fixes == ("machines.4090-node",)
        return
    catalogue = catalogue_of(own(machines=machines))
    cluster = Cluster.parse(f"3x{name}", catalogue)
    assert (cluster.nodes, cluster.machine, cluster.world_size) == (3, name.lower(), 3 * gpus)
    assert [str(kind) for kind in node_kinds([name], catalogue)] == [f"1x{name.lower()}"]
    with pytest.raises(PlanError, match="no such entry"):
        Cluster.parse(f"3x{name}s", catalogue)
    # Other names go on as before.
    assert str(Cluster.parse("2x8xa100-80", catalogue)) == "2x8xa100-80"


@pytest.mark.parametrize("name", ["our node", "a+b", "a,b"])
def test_names_that_a_cluster_cannot_hold_are_refused(name: str) -> None:
    for section in ({"gpus": {name: {"like": "h100"}}}, {"machines": {name: {"gpu": "h100", "gpus": 2}}}):
        with pytest.raises(PlanError, match="--cluster cannot take this name"):
            catalogue_of(own(**section))


def test_ranks_on_spark_have_the_figures_of_the_config() -> None:
    config = own(gpus={"cpu": {"host_memory_gib": 64.0}, "H100": {"hbm_gib": 94.0}})
    on_cpu, on_gpu = Ranks(nodes=2, on="spark"), Ranks(nodes=2, gpus_per_node=8, gpu="h100", on="spark")
    assert with_own_figures(on_cpu, config).rank_hardware.memory_gib == 64
    assert with_own_figures(on_gpu, config).rank_hardware.hbm_gib == 94
    assert with_own_figures(on_gpu, own(gpus={"h200": {"hbm_gib": 1.0}})) == on_gpu


def test_memory_that_a_machine_told_of_itself_stays() -> None:
    here = Ranks.local(2, device="cpu")
    config = own(gpus={"cpu": {"host_memory_gib": 1e6, "host_memory_gbps": 7.0}})
    found = with_own_figures(here, config).rank_hardware
    assert (found.host_memory_gib, found.host_memory_gbps) == (here.rank_hardware.host_memory_gib, 7)


def test_training_plans_with_the_figures_of_the_config(
    run: RunConfig, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "_launch_with_restarts", lambda *_: None)
    monkeypatch.setattr("trainer.run_folder.RunFolder.result", lambda _: {})
    run = run.override("plan.hardware.gpus.cpu={host_memory_gib: 20, host_memory_gbps: 50}")
    cluster = Ranks(nodes=2, on="spark")
    train(run, data, cluster, out=tmp_path / "run", show_progress=False)
    layout = Plan.load(tmp_path / "run" / "plan.json")
    assert layout.cluster.rank_hardware.host_memory_gib == 20
    assert (
        layout.step.table_compute_ms
        < plan(run.override("plan.hardware={}"), data, cluster).step.table_compute_ms
    )


def test_training_plans_with_what_was_measured(
    run: RunConfig, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "_launch_with_restarts", lambda *_: None)
    monkeypatch.setattr("trainer.run_folder.RunFolder.result", lambda _: {})
    lookup = "dim: 8, table_mib: 1, forward_bag_ns: 9, backward_bag_ns: 9, forward_gbps: 1, backward_gbps: 1"
    sent = "kind: all_to_all, ranks: 2, nodes: 1, latency_ms: 70, gbps: 1"
    measured = (
        "machine: here, date: today, step_overhead_ms: 50, table_overhead_ms: 0, fp32_tflops: 1, "
        f"lookups: [{{{lookup}}}], collectives: [{{{sent}}}]"
    )
    run = run.override(f"plan.hardware.gpus.cpu={{measured: {{{measured}}}}}", "tables={}")
    steps = {}
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        train(run, data, Ranks.local(ranks, on="local", device="cpu"), out=folder, show_progress=False)
        layout = Plan.load(folder / "plan.json")
        assert layout.estimate["basis"] == "measured on here, today"
        steps[ranks] = layout.step
    assert steps[1].table_compute_ms >= 50
    assert steps[1].table_exchange_ms == 0
    assert steps[2].table_exchange_ms >= 140  # There and back.


def test_a_file_of_figures_counts_for_the_ranks_of_this_host(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("gpus: {cpu: {host_memory_gbps: 123}}\n")
    out, config = tmp_path / "plan.json", "jobs/configs/whatif_ads.yaml"
    tables = ["--set", "plan.tables={small: {num_embeddings: 100}}", "--set", "tables={}"]
    arguments = ["plan", config, *tables, "--ranks", "1", "--hardware", str(file), "--out", str(out)]
    assert main(arguments) == 0
    assert Plan.load(out).cluster.rank_hardware.host_memory_gbps == 123


def test_the_file_wins_over_the_config(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("machines: {p5.48xlarge: {price_per_hour: 31}}\ngpus: {new: {like: h200, hbm_gib: 96}}\n")
    config = own(machines={"p5.48xlarge": {"price_per_hour": 40.0, "host_memory_gib": 1024.0}})
    catalogue = catalogue_of(config, file)
    p5 = catalogue.machines["p5.48xlarge"]
    assert (p5.price_per_hour, p5.host_memory_gib, p5.price_source) == (31, 1024, "given by the user")
    assert (catalogue.hardware["new"].hbm_gib, catalogue.hardware["new"].hbm_gbps) == (96, 4800)


def test_what_is_wrong_in_a_file_is_named_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("gpus: {h100: {hbm_gb: 94}}\n")
    with pytest.raises(ConfigError) as error:
        catalogue_of(own(), file)
    assert str(file) in error.value.where
    assert "hbm_gib" in str(error.value)


def test_an_entry_like_one_that_is_not_there_is_named_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for text, place in (
        ("gpus: {mine: {like: h10}}", "gpus.mine.like"),
        ("machines: {mine: {gpu: h10, gpus: 2}}", "machines.mine.gpu"),
        ("machines: {p5.48xlarge: {gpu: h10}}", "machines.p5.48xlarge.gpu"),
    ):
        file.write_text(text)
        with pytest.raises(PlanError, match="no such entry") as error:
            catalogue_of(own(), file)
        assert error.value.where == f"{file}: {place}"
        assert error.value.fixes == ("did you mean 'h100'?",)


def test_a_new_entry_without_its_base_is_refused() -> None:
    with pytest.raises(PlanError, match="new GPU"):
        catalogue_of(own(gpus={"mine": {"hbm_gib": 10.0}}))
    with pytest.raises(PlanError, match="new machine"):
        catalogue_of(own(machines={"mine": {"gpus": 2}}))
