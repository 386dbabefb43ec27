"""Candidate lists from training to the report: stopping by NDCG, segments, intervals, two ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs import Cluster, Dataset, RunConfig, evaluate, train
from jobs.cli import main
from tests.support.datasets import write_dataset, write_split
from tests.support.html_page import parse, section, table
from tests.support.tiny import CONFIG
from trainer.errors import ConfigError, DataError
from trainer.reporting import write_report
from trainer.reporting.history import read_history
from trainer.schema import Manifest

LISTS = "data.negatives={user: u, item: i, evaluation: {per_positive: 9}}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Dataset, Path]:
    """A run that stops by NDCG, on a data set whose rows come in lists of ten with one positive each."""
    folder = tmp_path_factory.mktemp("lists")
    run = RunConfig.from_dict(CONFIG).override(
        LISTS, "train.early_stopping={metric: ndcg@5, patience: 9}", "train.evaluate_every_steps=4"
    )
    written = write_dataset(folder / "data", rows={"train": 1000, "valid": 600, "test": 600}, num_sequences=0)
    splits = dict(written.manifest.splits)
    for split in ("valid", "test"):
        rows = written.tables[split]
        labels = rows["label"].to_numpy()
        positives, negatives = np.flatnonzero(labels == 1)[:20], np.flatnonzero(labels == 0)[:180]
        lists = np.column_stack([positives, negatives.reshape(20, 9)]).ravel()
        kept = rows.take(pa.array(lists))
        group = pa.array(np.repeat(np.arange(20) * 10**12 - 7, 10))
        genre = pa.array(np.repeat(["a", "b"], [80, 120]))
        kept = kept.append_column("keep.negatives.group", group).append_column("keep.genre", genre)
        splits[split] = write_split(folder / "data", split, kept, rows_per_row_group=30, rows_per_file=70)
    manifest = written.manifest.model_copy(
        update={
            "splits": splits,
            "config_hash": run.preparation_hash(),
            "preparation": run.preparation(),
        }
    )
    manifest.save(folder / "data")
    data = Dataset.open(folder / "data")
    train(run, data, out=folder / "run", show_progress=False)
    return run, data, folder / "run"


def test_lists_are_ranked_while_training_and_after_it_alike_on_two_ranks(
    trained: tuple[RunConfig, Dataset, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained[2]
    found = evaluate(folder, "valid", by="genre", confidence=0.9)
    assert {"hr@5", "ndcg@5", "mrr@5", "map@5", "mrr", "gauc"} <= found.metrics.keys()
    assert "hr@10" not in found.metrics  # lists have ten candidates
    assert (found.metrics["groups"], found.metrics["groups_left_out"]) == (20, 0)
    assert found.metrics["hr@5"] > 0.6  # chance: 0.5
    low, high = found.intervals["gauc"]
    assert low < found.metrics["gauc"] < high
    assert [(group["value"], group["metrics"]["groups"]) for group in found.by["genre"]] == [
        ("b", 12),
        ("a", 8),
    ]
    assert found.metrics["hr@5"] == pytest.approx(
        (12 * found.by["genre"][0]["metrics"]["hr@5"] + 8 * found.by["genre"][1]["metrics"]["hr@5"]) / 20
    )
    on_two = evaluate(folder, "valid", by="genre", confidence=0.9, cluster=Cluster.local(2, on="torchrun"))
    assert on_two.metrics == pytest.approx(found.metrics, abs=1e-6)
    assert on_two.intervals["auc"] == pytest.approx(found.intervals["auc"], abs=1e-6)

    assert main(["evaluate", str(folder), "--split", "valid", "--by", "genre"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["at", "K", "5"] for line in lines)
    assert sum("ndcg@5" in line for line in lines[-2:]) == 2
    page = section(parse(write_report(folder)), "evaluation")
    assert page is not None
    assert table(page, "Candidate lists of the valid split")[0][:2] == ["K", "HR@K"]


def test_the_run_keeps_the_checkpoint_of_best_ndcg(trained: tuple[RunConfig, Dataset, Path]) -> None:
    curve = read_history(trained[2] / "metrics.jsonl").evaluation_curve("ndcg@5")
    best = curve.steps[curve.values.index(max(curve.values))]
    found = evaluate(trained[2], "valid")
    assert found.metrics["ndcg@5"] == pytest.approx(max(curve.values), abs=1e-6)
    assert f"step_{best:08d}" in {path.name for path in (trained[2] / "checkpoints").iterdir()}


def test_a_column_that_was_not_kept_is_named_before_anything_runs(
    trained: tuple[RunConfig, Dataset, Path], tmp_path: Path
) -> None:
    run, data, folder = trained
    without = run.override("metrics={group: user, at: [5]}")
    with pytest.raises(DataError, match=r"metrics.group user[\s\S]*genre[\s\S]*add user to data.keep"):
        train(without, data, out=tmp_path / "run", show_progress=False)
    with pytest.raises(DataError, match="--by user"):
        evaluate(folder, "valid", by="user")
    with pytest.raises(ConfigError, match="--confidence"):
        evaluate(folder, "valid", confidence=95)


def test_a_k_no_smaller_than_the_lists_found_is_refused(
    trained: tuple[RunConfig, Dataset, Path], tmp_path: Path
) -> None:
    run, data, _ = trained
    manifest = Manifest.load(data.path)
    by_genre = run.override(
        "train.early_stopping=null", "metrics={group: genre, at: [120]}", "train.max_steps=1"
    )
    assert manifest.split("valid").rows == 200
    with pytest.raises(DataError, match=r"metrics.at[\s\S]*numbers below 120, the longest list of 'genre'"):
        train(by_genre, data, out=tmp_path / "run", show_progress=False)
