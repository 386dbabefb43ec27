"""The same config and seed give the same losses and metrics at every world size and way of starting."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import Cluster, Dataset, RunConfig, evaluate, train
from tests.support.run_folders import losses

pytestmark = pytest.mark.thorough


def twenty_steps(run: RunConfig, *more: str) -> RunConfig:
    return run.override("train.max_steps=20", "train.log_every_steps=1", "train.early_stopping=null", *more)


# The shipped config, which has dropout, and the other models with theirs. The deep one trains with plain SGD:
# optimizers that divide by the size of gradients make whole steps of those that are zero but for rounding,
# which differs between world sizes.
MODELS = {
    "dlrm": [],
    "dcn_v2": ["model={name: dcn_v2, dropout: 0.2}"],
    "dhen": [
        "model={name: dhen, modules: [dot, attention, convolution, linear, cross], dropout: 0.2, "
        "interactions: {attention: {dropout: 0.1}}}",
        "train.dense_optimizer={name: sgd, learning_rate: 0.05}",
        "train.embedding_optimizer={name: sgd, learning_rate: 0.05}",
    ],
}


@pytest.mark.parametrize("model", MODELS)
def test_losses_over_20_steps_agree_at_1_2_and_4_ranks(
    movielens: tuple[RunConfig, Dataset], tmp_path: Path, model: str
) -> None:
    run, data = movielens
    run = twenty_steps(run, *MODELS[model])
    one = train(run, data, out=tmp_path / "1", show_progress=False)
    expected = losses(tmp_path / "1")
    assert len(expected) == 20
    assert expected[-1] < expected[0]
    for ranks in (2, 4):
        cluster = Cluster(ranks_per_node=ranks, on="torchrun")
        many = train(run, data, cluster, out=tmp_path / str(ranks), show_progress=False)
        assert losses(tmp_path / str(ranks)) == pytest.approx(expected, abs=1e-4)
        assert many.metrics["auc"] == pytest.approx(one.metrics["auc"], abs=1e-3)


def test_torch_distributor_in_local_mode_equals_one_process(
    movielens: tuple[RunConfig, Dataset], tmp_path: Path
) -> None:
    run, data = movielens
    run = twenty_steps(run)
    one = train(run, data, out=tmp_path / "process", show_progress=False)
    two = train(run, data, Cluster(ranks_per_node=2, on="local"), out=tmp_path / "local", show_progress=False)
    assert losses(tmp_path / "local") == pytest.approx(losses(tmp_path / "process"), abs=1e-4)
    on_one = evaluate(one, "test")
    on_two = evaluate(two, "test", cluster=Cluster(ranks_per_node=2, on="torchrun"))
    assert on_one.rows == on_two.rows == data.manifest.split("test").rows
    for name in ("auc", "log_loss", "ne", "calibration", "accuracy"):
        assert on_two.metrics[name] == pytest.approx(on_one.metrics[name], abs=1e-3)


def test_evaluation_does_not_depend_on_the_number_of_ranks(
    movielens: tuple[RunConfig, Dataset], tmp_path: Path
) -> None:
    run, data = movielens
    result = train(twenty_steps(run), data, out=tmp_path / "run", show_progress=False)
    one = evaluate(result, "valid")
    four = evaluate(result, "valid", cluster=Cluster(ranks_per_node=4, on="torchrun"))
    assert one.rows == four.rows == data.manifest.split("valid").rows
    assert four.metrics == pytest.approx(one.metrics, abs=1e-6)
    assert one.metrics["auc"] == pytest.approx(result.metrics["auc"], abs=1e-6)
