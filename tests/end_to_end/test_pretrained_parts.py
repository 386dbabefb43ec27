"""NeuMF from a run of GMF and one of MLP: first scores by hand, at other ranks and plans; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from jobs import Cluster, Dataset, RunConfig, train
from jobs.rank_requests import run_request
from tests.support.run_folders import losses
from tests.support.tiny import tiny_data
from trainer.errors import CheckpointError, ConfigError, DataError, SpecMismatchError, UserError
from trainer.pretrained_parts import trained_parts
from trainer.rank_jobs import SCORES_FILE
from trainer.run_folder import RunFolder
from trainer.stored_tensors import StoredTensors

ALPHA = 0.3
CONFIG: dict[str, Any] = {
    "name": "neumf",
    "data": {"label": {"column": "y"}, "num_lanes": 4},
    "features": {"sparse": [{"columns": "s*"}]},
    "model": {
        "name": "ncf",
        "user": "s0",
        "item": "s1",
        "embedding_dim": 8,
        "mlp_embedding_dim": 12,
        "mlp_layer_sizes": [10, 6],
        "negatives": {"per_query": 2},
    },
    "train": {
        "global_batch_size": 64,
        "max_steps": 12,
        "log_every_steps": 1,
        "dense_optimizer": {"learning_rate": 0.01},
        "embedding_optimizer": {"name": "adagrad", "learning_rate": 0.3},
    },
}
RUN = RunConfig.from_dict(CONFIG)
TWO = Cluster(ranks_per_node=2, on="torchrun")
ROW_WISE = "tables={'*': {sharding_types: [row_wise]}}"
# Steps that change nothing.
STILL = (
    "train.max_steps=1",
    "train.dense_optimizer={name: sgd, learning_rate: 1.0e-30}",
    "train.embedding_optimizer={name: sgd, learning_rate: 1.0e-30}",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny_data(tmp_path_factory.mktemp("neumf") / "data", RUN, num_dense=0, num_lists=0)


@pytest.fixture(scope="module")
def runs(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `gmf`, of two ranks and with an average of the dense part, and `mlp`, of one."""
    folder = tmp_path_factory.mktemp("runs")
    gmf = RUN.override("model.parts=[gmf]", ROW_WISE, "train.ema={decay: 0.5}")
    train(gmf, data, TWO, out=folder / "gmf", show_progress=False)
    train(RUN.override("model.parts=[mlp]"), data, out=folder / "mlp", show_progress=False)
    return folder


def neumf(*overrides: str) -> RunConfig:
    return RUN.override(f"model.pretrained={{gmf: gmf, mlp: mlp, alpha: {ALPHA}}}", *overrides)


def logits(run: Path, data: Dataset, place: Path) -> np.ndarray:
    """Return what a run gives for the rows of test."""
    folder = RunFolder(run)
    checkpoint = folder.result()["checkpoint"]
    run_request(place, "score_rank", folder, data, "test", Cluster.local(), checkpoint=checkpoint)
    probabilities = pq.read_table(place / SCORES_FILE)["probability"].to_numpy()
    return np.log(probabilities / (1 - probabilities))


def tensors(run: Path) -> dict[str, np.ndarray]:
    """Return the weights of a run by their last names, of the average where it has one."""
    stored = StoredTensors(run / "checkpoints" / RunFolder(run).result()["checkpoint"])
    found: dict[str, np.ndarray] = {}
    for kind in ("model", "average"):
        for key, place in stored.places.items():
            if place[0] == kind:
                name = place[1].partition("network.")[2] or place[1].split(".")[-2]
                found[name] = stored.read(key).double().numpy()
    return found


def by_hand(runs: Path, data: Dataset) -> np.ndarray:
    """Return alpha x the score of GMF + (1 - alpha) x that of MLP, from the weights in their checkpoints."""
    rows = ds.dataset(data.path / "test", format="parquet").to_table().to_pydict()
    users, items = np.array(rows["s0"]), np.array(rows["s1"])
    gmf, mlp = tensors(runs / "gmf"), tensors(runs / "mlp")
    product = gmf["s0"][users] * gmf["s1"][items]
    of_gmf = product @ gmf["score.weight"].T + gmf["score.bias"]
    first = mlp["s0"][users] @ mlp["of_user.weight"].T + mlp["s1"][items] @ mlp["of_item.weight"].T
    hidden = np.maximum(first + mlp["of_item.bias"], 0)
    weight, bias = (mlp[f"hidden._mlp.0._linear.{name}"] for name in ("weight", "bias"))
    hidden = np.maximum(hidden @ weight.T + bias, 0)
    of_mlp = hidden @ mlp["score.weight"].T + mlp["score.bias"]
    both: np.ndarray = (ALPHA * of_gmf + (1 - ALPHA) * of_mlp)[:, 0]
    return both


@pytest.mark.parametrize("ranks", [1, 2])
def test_first_scores_are_the_mean_of_both_parts(
    runs: Path, data: Dataset, tmp_path: Path, ranks: int
) -> None:
    out = runs / f"still_{ranks}"
    shared_out = ("train.dense_parallel=fsdp", "tables={'*': {sharding_types: [column_wise, row_wise]}}")
    run = neumf(*STILL, *(shared_out if ranks > 1 else ()))
    train(run, data, TWO if ranks > 1 else None, out=out, show_progress=False)
    expected = by_hand(runs, data)
    assert expected.std() > 0.05
    assert logits(out, data, tmp_path) == pytest.approx(expected, abs=1e-5)


def test_a_run_goes_on_without_the_runs_that_it_began_with(runs: Path, data: Dataset, tmp_path: Path) -> None:
    for part in ("gmf", "mlp"):
        (tmp_path / part).symlink_to(runs / part)
    run = neumf("train.max_steps=4", "train.checkpoint_every_steps=2", "train.ema={decay: 0.5}")
    unbroken = train(run, data, out=tmp_path / "unbroken", show_progress=False)
    train(run.override("train.max_steps=2"), data, out=tmp_path / "broken", show_progress=False)
    for part in ("gmf", "mlp"):
        (tmp_path / part).unlink()
    train(run, data, out=tmp_path / "broken", show_progress=False)
    assert losses(tmp_path / "broken") == losses(unbroken.path)
    afresh = train(RUN.override("train.max_steps=4"), data, out=tmp_path / "afresh", show_progress=False)
    assert losses(unbroken.path)[0] < losses(afresh.path)[0]


def refused(run: RunConfig, data: Dataset, folder: Path) -> UserError:
    with pytest.raises(UserError) as error:
        trained_parts(run, data.manifest, RunFolder(folder / "new"))
    return error.value


def test_what_cannot_be_joined_is_named(runs: Path, data: Dataset, tmp_path: Path) -> None:
    gone = refused(neumf("model.pretrained.gmf=nowhere"), data, runs)
    assert isinstance(gone, ConfigError)
    assert (gone.where, gone.got) == ("model.pretrained.gmf", str(runs / "nowhere"))

    wide = refused(neumf("model.mlp_embedding_dim=16"), data, runs)
    assert isinstance(wide, CheckpointError)
    assert "table 's0'" in wide.what
    assert "model.pretrained.mlp" in wide.where
    assert (wide.got, wide.allowed) == ("shape [50, 12]", "shape [50, 16]")

    deep = refused(neumf("model.mlp_layer_sizes=[10, 7]"), data, runs)
    assert "parameter 'network." in deep.what

    swapped = refused(neumf("model.pretrained.mlp=gmf"), data, runs)
    assert "the part 'mlp'" in swapped.what

    spec = data.manifest.spec
    feature = spec.features[0].model_copy(update={"num_embeddings": 60})
    other = spec.model_copy(update={"features": (feature, *spec.features[1:])})
    manifest = data.manifest.model_copy(update={"spec": other})
    with pytest.raises(SpecMismatchError, match=r"pretrained\.gmf(.|\n)*num_embeddings(.|\n)*remap"):
        trained_parts(neumf(), manifest, RunFolder(runs / "new"))

    (tmp_path / "gmf").symlink_to(runs / "gmf")
    RunFolder(tmp_path / "mlp").create(RUN, data.manifest, data.path)
    unfinished = refused(neumf(), data, tmp_path)
    assert isinstance(unfinished, DataError)
    assert "has not finished" in unfinished.what

    shutil.copytree(runs / "mlp", tmp_path / "halted")
    file = tmp_path / "halted" / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "stopped": "interrupted"}))
    halted = refused(neumf("model.pretrained.mlp=halted"), data, tmp_path)
    assert isinstance(halted, DataError)
    assert (halted.what, halted.got) == ("the run has not finished", "stopped: interrupted")


def test_one_part_alone_joins_nothing(runs: Path, data: Dataset) -> None:
    assert "joins two parts" in str(refused(neumf("model.parts=[gmf]"), data, runs))
    assert trained_parts(RUN, data.manifest, RunFolder(runs / "new")) == []
