"""Kernels, data types and dynamic ids that only GPUs have, against the same runs on CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from jobs import Cluster, Dataset, RunConfig, TrainResult, evaluate, plan, train
from sharding.errors import UserError
from tests.support.run_folders import losses
from tests.support.tiny import tiny_data
from trainer.stored_tensors import StoredTensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]

CPU, GPU = "cpu", "cuda"
# Of the largest weights: a row that a cache kept to itself would miss steps of 0.02.
CLOSE = 1e-3
IDS = "ids: {num_embeddings: 200, min_count: 2, ttl_steps: 5}"


@pytest.fixture
def run(run: RunConfig) -> RunConfig:
    """A run whose tables lie whole on a rank."""
    return run.override("train.log_every_steps=1", "tables={'*': {sharding_types: [table_wise]}}")


@pytest.fixture
def data(tmp_path: Path, run: RunConfig) -> Dataset:
    """More ids than the caches of these tests hold."""
    return tiny_data(tmp_path / "data", run, num_embeddings=2000)


def with_tables(run: RunConfig, *settings: str) -> RunConfig:
    return run.override(f"tables={{'*': {{{', '.join(('sharding_types: [table_wise]', *settings))}}}}}")


def trained(run: RunConfig, data: Dataset, device: str, out: Path) -> TrainResult:
    return train(run, data, cluster(device), out=out, show_progress=False)


def cluster(device: str) -> Cluster:
    return Cluster.local(1, device=device)  # type: ignore[arg-type]


def tables_of(result: TrainResult) -> dict[str, Tensor]:
    """Return weights and optimizer state of the tables in the newest checkpoint, by name."""
    stored = StoredTensors(sorted((result.path / "checkpoints").glob("step_*"))[-1])
    found = {name: stored.read(name).float() for name in stored.places if ".embedding_bags." in name}
    assert {name.split(".")[0] for name in found} == {"model", "optimizer"}
    return found


def assert_same_training(on_gpu: TrainResult, on_cpu: TrainResult) -> None:
    assert losses(on_gpu.path) == pytest.approx(losses(on_cpu.path), rel=1e-3)
    there, here = tables_of(on_gpu), tables_of(on_cpu)
    assert there.keys() == here.keys()
    for name, expected in here.items():
        torch.testing.assert_close(there[name], expected, rtol=CLOSE, atol=CLOSE, msg=f"{name} differs")


@pytest.mark.parametrize(
    "settings",
    [
        ("compute_kernels: [fused_uvm]",),
        ("compute_kernels: [fused_uvm_caching]", "cache_load_factor: 0.02"),
        ("compute_kernels: [fused_uvm]", "enforce_hbm: true"),
        ("compute_kernels: [fused_uvm_caching]", "cache_load_factor: 0.02", "enforce_hbm: true"),
    ],
    ids=["uvm", "uvm_caching", "uvm_in_hbm", "uvm_caching_in_hbm"],
)
def test_tables_outside_hbm_train_as_on_cpu_and_go_on_from_checkpoints(
    run: RunConfig, data: Dataset, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    on_cpu = trained(run, data, CPU, tmp_path / CPU)
    there = with_tables(run, *settings)
    kernels = {table.compute_kernel for table in plan(there, data, cluster(GPU)).tables}
    assert settings[0] == f"compute_kernels: [{kernels.pop()}]"
    # The rows that the cache holds must be in the checkpoint, and be read from it again.
    trained(there.override("train.max_steps=4"), data, GPU, tmp_path / GPU)
    on_gpu = trained(there, data, GPU, tmp_path / GPU)
    assert_same_training(on_gpu, on_cpu)
    expected = evaluate(on_cpu, cluster=cluster(CPU)).metrics
    assert evaluate(on_gpu).metrics == pytest.approx(expected, rel=1e-2)
    assert evaluate(on_gpu, cluster=cluster(CPU)).metrics == pytest.approx(expected, rel=1e-2)


def test_fp16_tables_rounded_to_the_nearest_train_as_on_cpu(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    on_cpu = trained(with_tables(run, "data_type: fp16"), data, CPU, tmp_path / CPU)
    there = with_tables(run, "data_type: fp16", "stochastic_rounding: false")
    assert_same_training(trained(there, data, GPU, tmp_path / GPU), on_cpu)


@pytest.mark.parametrize("settings", [("fp16", "true"), ("bf16", "true"), ("bf16", "false")])
def test_half_precision_tables_train_near_fp32_on_cpu(
    run: RunConfig, data: Dataset, tmp_path: Path, settings: tuple[str, str]
) -> None:
    data_type, by_chance = settings
    there = with_tables(run, f"data_type: {data_type}", f"stochastic_rounding: {by_chance}")
    on_gpu = trained(there, data, GPU, tmp_path / GPU)
    expected = losses(trained(run, data, CPU, tmp_path / CPU).path)
    assert losses(on_gpu.path) == pytest.approx(expected, rel=1e-2)
    stored = StoredTensors(sorted((on_gpu.path / "checkpoints").glob("step_*"))[-1])
    weights = [name for name in stored.places if name.startswith("model.") and ".embedding_bags." in name]
    assert {stored.dtype(name) for name in weights} == {
        {"fp16": torch.float16, "bf16": torch.bfloat16}[data_type]
    }


@pytest.mark.parametrize("output", ["fp16", "bf16"])
def test_kernels_that_look_up_16_bits_train_as_on_cpu(
    run: RunConfig, data: Dataset, tmp_path: Path, output: str
) -> None:
    there = run.override(f"train.table_output_dtype={output}")
    on_gpu = losses(trained(there, data, GPU, tmp_path / GPU).path)
    # CPU kernels have no bf16.
    same = there if output == "fp16" else run
    expected = losses(trained(same, data, CPU, tmp_path / CPU).path)
    assert on_gpu == pytest.approx(expected, rel=1e-3 if output == "fp16" else 1e-2)


def test_rows_of_dynamic_ids_in_host_memory_start_anew_as_on_cpu(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    on_cpu = trained(with_tables(run, IDS), data, CPU, tmp_path / CPU)
    there = with_tables(run, IDS, "compute_kernels: [fused_uvm]")
    assert_same_training(trained(there, data, GPU, tmp_path / GPU), on_cpu)


def test_tables_on_ssd_are_refused_before_anything_starts(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    there = with_tables(run, "compute_kernels: [key_value]")
    with pytest.raises(UserError, match="SSD") as error:
        trained(there, data, GPU, tmp_path / GPU)
    assert error.value.where.startswith("tables.")
    assert not (tmp_path / GPU).exists()
