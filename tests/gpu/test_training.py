"""Training on one GPU, against the same run on CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jobs import Cluster, Dataset, RunConfig, evaluate, train
from tests.support.run_folders import losses

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]


def test_losses_and_metrics_on_a_gpu_are_those_on_cpu(run: RunConfig, data: Dataset, tmp_path: Path) -> None:
    run = run.override("train.log_every_steps=1")
    on_cpu, on_gpu = (
        train(run, data, Cluster.local(1, device=device), out=tmp_path / device, show_progress=False)
        for device in ("cpu", "cuda")
    )
    assert len(losses(on_cpu.path)) == 12
    assert losses(on_gpu.path) == pytest.approx(losses(on_cpu.path), rel=1e-3)
    expected = evaluate(on_cpu, cluster=Cluster.local(1, device="cpu")).metrics
    assert evaluate(on_gpu).metrics == pytest.approx(expected, rel=1e-2)


def test_a_run_of_a_gpu_is_evaluated_on_cpu(run: RunConfig, data: Dataset, tmp_path: Path) -> None:
    result = train(run, data, Cluster.local(1, device="cuda"), out=tmp_path / "run", show_progress=False)
    there = evaluate(result).metrics
    here = evaluate(result, cluster=Cluster.local(1, device="cpu")).metrics
    assert here == pytest.approx(there, rel=1e-3)


def test_ids_get_the_rows_on_a_gpu_that_they_get_on_cpu(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    ids = "ids={num_embeddings: 30, evict: distance_lfu, min_count: 2, ttl_steps: 5}"
    run = run.override("train.log_every_steps=1", f"tables.s0.{ids}", f"tables.m0.{ids}")
    figures = []
    for device in ("cpu", "cuda"):
        cluster = Cluster.local(1, device=device)
        result = train(run, data, cluster, out=tmp_path / device, show_progress=False)
        lines = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
        figures.append([{**line, "time": 0} for line in lines if line["kind"] == "ids"])
    assert len(figures[0]) == 24
    assert figures[1] == figures[0]
