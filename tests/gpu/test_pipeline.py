"""On a GPU batches are sent ahead by default, and rounding is that of `train.precision`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs import Cluster, Dataset, RunConfig, train
from tests.support.run_folders import losses

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]


def test_batches_are_sent_ahead_with_the_same_losses(run: RunConfig, data: Dataset, tmp_path: Path) -> None:
    run = run.override("train.log_every_steps=1", "train.evaluate_every_steps=5")
    gpu = Cluster.local(1, device="cuda")
    plain = train(run.override("train.pipeline=none"), data, gpu, out=tmp_path / "plain", show_progress=False)
    ahead = train(run, data, gpu, out=tmp_path / "ahead", show_progress=False)
    assert plain.result["modules_ahead"] == 0
    assert ahead.result["modules_ahead"] > 0
    assert losses(ahead.path) == pytest.approx(losses(plain.path), rel=1e-5)


@pytest.mark.parametrize(("precision", "within"), [("tf32", 1e-2), ("bf16", 5e-2)])
def test_rounded_products_train_near_fp32(
    precision: str, within: float, run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    run, gpu = run.override("train.log_every_steps=1"), Cluster.local(1, device="cuda")
    exact = train(run, data, gpu, out=tmp_path / "fp32", show_progress=False)
    run = run.override(f"train.precision={precision}")
    rounded = train(run, data, gpu, out=tmp_path / precision, show_progress=False)
    assert losses(rounded.path) == pytest.approx(losses(exact.path), rel=within)
