"""What a run has learnt, taken to another day's vocabularies and to larger tables of ids."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from jobs import Cluster, Dataset, Remapped, RunConfig, evaluate, prepare, remap, train
from jobs.cli import main
from jobs.rank_requests import run_request
from sharding.id_buckets import BucketShape
from sharding.weights import uniform_rows
from tests.support.run_folders import losses
from trainer.checkpoint import read_progress
from trainer.errors import CheckpointError, ConfigError, DataError, SpecMismatchError
from trainer.rank_jobs import SCORES_FILE
from trainer.run_folder import RunFolder
from trainer.stored_tensors import StoredTensors

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

CONFIG: dict[str, Any] = {
    "name": "days",
    "data": {
        "source": {"path": "*.csv", "header": True},
        "label": {"column": "clicked"},
        "keep": ["row", "user", "site", "tags"],
        "num_lanes": 4,
        "split": {"fractions": [0.8, 0.1, 0.1]},
    },
    "features": {
        "dense": [{"columns": "age"}],
        "sparse": [
            {"columns": "user", "ops": ["vocabulary"]},
            {
                "columns": "tags",
                "ops": [{"split": "|"}, {"vocabulary": {"oov_buckets": 3}}],
                "pooling": "mean",
            },
            {"columns": "site", "ops": [{"hash": 30}]},
            {"columns": "visitor", "ops": [{"hash": "unbounded"}]},
        ],
    },
    "model": {"name": "dlrm", "embedding_dim": 8},
    "tables": {
        "visitor": {"ids": {"num_embeddings": 50, "evict": "distance_lfu"}},
        "user": {"sharding_types": ["row_wise"]},
    },
    "train": {
        "global_batch_size": 32,
        "epochs": 2,
        "log_every_steps": 10,
        "dense_optimizer": {"learning_rate": 0.01},
        "embedding_optimizer": {"name": "adagrad", "learning_rate": 0.1},
    },
}
GROWN = "tables.visitor.ids.num_embeddings=120"
VALUES = ("user", "tags")


def lines(first: int, count: int, users: range) -> list[str]:
    """Rows of a day: half of the users like everything; some visitors come back, others never."""
    rng = random.Random(first)
    made = []
    for row in range(first, first + count):
        # On each day, another end of the users is the frequent one.
        user = rng.choice([*users, *(users[:10] if first == 0 else users[-10:])])
        tags = "|".join(f"t{rng.choice(users)}" for _ in range(2))
        visitor = f"v{rng.randrange(30)}" if rng.random() < 0.8 else f"once-{row}"
        clicked = int(rng.random() < 0.1 + 0.8 * (user % 2))
        made.append(f"{row},u{user},{tags},s{rng.randrange(60)},{visitor},{rng.randrange(80)},{clicked}")
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, spark: Any) -> Path:
    """Two days, prepared apart; the second one has 400 rows of the first again. The first is trained on."""
    folder = tmp_path_factory.mktemp("remap")
    header = "row,user,tags,site,visitor,age,clicked"
    first = lines(0, 2000, range(40))
    for name, rows in (("day1", first), ("day2", first[:400] + lines(2000, 1600, range(8, 52)))):
        (folder / name).mkdir()
        (folder / name / "rows.csv").write_text("\n".join([header, *rows]) + "\n")
        prepare(folder / name, config(), folder / f"{name}_data", spark=spark)
    train(config(), folder / "day1_data", out=folder / "day1_run", show_progress=False)
    return folder


def config(*overrides: str) -> RunConfig:
    return RunConfig.from_dict(CONFIG, where="test").override(*overrides)


@pytest.fixture(scope="module")
def remapped(folder: Path) -> Remapped:
    return remap(folder / "day1_run", config(GROWN), folder / "day2_data", folder / "day2_run")


def rows_of_values(dataset: Path, table: str) -> dict[str, int]:
    rows = ds.dataset(dataset / "vocabulary" / table, format="parquet").to_table()
    return dict(zip(rows["value"].to_pylist(), rows["id"].to_pylist(), strict=True))


def tensors(run: Path, step: str | None = None) -> dict[str, torch.Tensor]:
    """Return all tensors of a run's checkpoint."""
    name = step or RunFolder(run).saved_checkpoints()[-1]
    stored = StoredTensors(run / "checkpoints" / name)
    return {name: stored.read(name) for name in stored.places}


def of_table(found: dict[str, torch.Tensor], table: str) -> list[torch.Tensor]:
    """Return weights and Adagrad moments of a table."""
    names = [name for name in found if f"embedding_bags.{table}.weight" in name]
    assert len(names) == 2
    return [found[name] for name in sorted(names)]


def owners(found: dict[str, torch.Tensor], rows: int) -> dict[int, int]:
    shape = BucketShape.of(rows)
    slots = found["ids.visitor.ids"][:, : shape.slots].reshape(-1).tolist()
    return {id_: 2 + place for place, id_ in enumerate(slots) if id_}


def test_each_value_has_the_row_and_the_moments_that_it_had(folder: Path, remapped: Remapped) -> None:
    before, after = tensors(folder / "day1_run"), tensors(remapped.path)
    told = {table.table: table for table in remapped.tables}
    for table, oov in (("user", 1), ("tags", 3)):
        was, now = (rows_of_values(folder / f"day{day}_data", table) for day in (1, 2))
        kept = was.keys() & now.keys()
        assert [was[v] for v in sorted(kept)] != [now[v] for v in sorted(kept)]  # the days differ
        found = told[table]
        assert (found.kept, found.new, found.dropped) == (
            len(kept),
            len(now.keys() - was),
            len(was.keys() - now),
        )
        assert found.kept > 20
        assert found.new > 10
        fresh = sorted(now[v] for v in now.keys() - was)
        for old, new in zip(of_table(before, table), of_table(after, table), strict=True):
            assert len(new) == 1 + oov + len(now)
            assert torch.equal(new[: 1 + oov], old[: 1 + oov])
            for value in kept:
                assert torch.equal(new[now[value]], old[was[value]])
        moments, weights = sorted(of_table(after, table), key=lambda t: int((t < 0).any()))
        assert not moments[fresh].any()
        expected = uniform_rows(
            config().seed, table, torch.tensor(fresh), range(8), table_shape=(len(weights), 8)
        )
        assert torch.equal(weights[fresh], expected)
    assert remapped.warnings == ()
    for old, new in zip(of_table(before, "site"), of_table(after, "site"), strict=True):
        assert torch.equal(old, new)
    dense = [name for name in before if "embedding_bags" not in name and not name.startswith("ids.")]
    assert len(dense) > 20
    assert all(torch.equal(before[name], after[name]) for name in dense)


def test_each_id_of_a_larger_table_has_its_row_and_moments(folder: Path, remapped: Remapped) -> None:
    before, after = tensors(folder / "day1_run"), tensors(remapped.path)
    was, now = owners(before, 50), owners(after, 120)
    assert len(was) == 48
    assert now.keys() == was.keys()
    for old, new in zip(of_table(before, "visitor"), of_table(after, "visitor"), strict=True):
        assert new.shape == (120, 8)
        assert torch.equal(new[:2], old[:2])
        assert all(torch.equal(new[now[id_]], old[was[id_]]) for id_ in was)
    assert torch.equal(before["ids.step"], after["ids.step"])


def scores(run: Path, checkpoint: str, data: Path, place: Path) -> dict[str, float]:
    """Return the probability of each row by its number in the raw files."""
    found: dict[str, float] = {}
    for split in ("train", "valid", "test"):
        job = place / split
        run_request(
            job,
            "score_rank",
            RunFolder(run),
            Dataset.open(data),
            split,
            Cluster.local(),
            checkpoint=checkpoint,
        )
        probabilities = pq.read_table(job / SCORES_FILE)["probability"].to_pylist()
        rows = pq.read_table(data / split)["keep.row"].to_pylist()
        found.update(zip(rows, probabilities, strict=True))
    return found


def test_old_rows_score_as_before(folder: Path, remapped: Remapped, tmp_path: Path) -> None:
    start = RunFolder(remapped.path).saved_checkpoints()
    assert start == ["step_00000000"]
    progress = read_progress(remapped.path / "checkpoints" / start[0])
    steps = int(remapped.checkpoint.removeprefix("step_"))
    assert (progress.step, progress.earlier_steps) == (0, steps)
    before = scores(folder / "day1_run", remapped.checkpoint, folder / "day1_data", tmp_path / "1")
    after = scores(remapped.path, start[0], folder / "day2_data", tmp_path / "2")
    known = [
        rows_of_values(folder / "day1_data", table).keys()
        & rows_of_values(folder / "day2_data", table).keys()
        for table in VALUES
    ]
    raw = (line.split(",") for line in (folder / "day1" / "rows.csv").read_text().splitlines()[1:401])
    both = [row for row, user, tags, *_ in raw if user in known[0] and known[1].issuperset(tags.split("|"))]
    assert len(both) > 100
    np.testing.assert_allclose([after[row] for row in both], [before[row] for row in both], rtol=1e-6)


def test_training_goes_on_from_there_at_two_ranks(folder: Path, remapped: Remapped, tmp_path: Path) -> None:
    two = Cluster.local(ranks=2)
    run = config(GROWN)
    # The start as it is stays for the other tests.
    again = remap(folder / "day1_run", run, folder / "day2_data", tmp_path / "again")
    onward = train(run, folder / "day2_data", two, out=again.path, show_progress=False)
    anew = train(run, folder / "day2_data", out=tmp_path / "anew", show_progress=False)
    assert onward.result["steps"] == anew.result["steps"] > 60
    learnt, fresh = losses(onward.path), losses(anew.path)
    ended = losses(folder / "day1_run")
    # Most rows are of users and visitors that the run knew.
    assert learnt[0] < fresh[0] - 0.05
    assert learnt[0] < ended[-1] + 0.1
    assert onward.metrics["auc"] > 0.7


@pytest.mark.parametrize("split_first", [True, False])
def test_row_moments_of_column_shards_are_taken_along_to_another_number_of_ranks(
    folder: Path, tmp_path: Path, split_first: bool
) -> None:
    common = ["train.embedding_optimizer.name=rowwise_adagrad", "train.max_steps=12", "train.epochs=1"]
    split, whole = ["{sharding_types: [column_wise], min_partition: 4}", "{sharding_types: [table_wise]}"]
    first, second = (split, whole) if split_first else (whole, split)
    both = Cluster.local(ranks=2), Cluster.local()
    clusters = both if split_first else both[::-1]

    def cut(tables: str) -> RunConfig:
        return config(*common, f"tables.tags={tables}", "tables.user.sharding_types=null")

    day1 = train(cut(first), folder / "day1_data", clusters[0], out=tmp_path / "day1", show_progress=False)
    run = cut(second).override("train.max_steps=1")
    found = remap(day1, run, folder / "day2_data", tmp_path / "day2")
    before, after = tensors(day1.path), tensors(found.path)
    was, now = (rows_of_values(folder / f"day{day}_data", "tags") for day in (1, 2))
    kept = sorted(was.keys() & now.keys())
    (old,), (new,) = ([t for t in of_table(held, "tags") if t.ndim == 1] for held in (before, after))
    shards, rows = (2 if split_first else 1), 4 + len(now)
    assert (len(old), len(new)) == (shards * (4 + len(was)), shards * rows)
    for moments, start in zip(new.chunk(shards), old.chunk(shards), strict=True):
        assert torch.equal(moments[[now[v] for v in kept]], start[[was[v] for v in kept]])

    onward = train(run, folder / "day2_data", clusters[1], out=found.path, show_progress=False)
    (loaded,) = (t for t in of_table(tensors(onward.path), "tags") if t.ndim == 1)
    expected = new.reshape(shards, rows).mean(dim=0).repeat(3 - shards)
    # The step adds the squares of gradients to the rows that it looks up, and nothing to the others.
    assert len(loaded) == len(expected)
    assert (loaded >= expected * (1 - 1e-6)).all()
    same = torch.isclose(loaded, expected, rtol=1e-6, atol=0) & (expected > 0)
    assert same.sum() > 3


def test_a_vocabulary_that_has_grown_keeps_its_numbers(folder: Path, tmp_path: Path, spark: Any) -> None:
    """The data set of the run is itself appended to: the run's vocabulary is a part of what lies there."""
    for name in ("day1", "day2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.csv").write_text((folder / name / "rows.csv").read_text())
    data = prepare(tmp_path / "day1", config(), tmp_path / "data", spark=spark)
    result = train(config("train.max_steps=10"), data, out=tmp_path / "run", show_progress=False)
    before = tensors(result.path)
    prepare(tmp_path / "day2", config(), tmp_path / "data", append="grow", spark=spark)
    found = remap(result, config(), tmp_path / "data", tmp_path / "grown")
    after = tensors(found.path)
    told = {table.table: table for table in found.tables}
    for table in VALUES:
        for old, new in zip(of_table(before, table), of_table(after, table), strict=True):
            assert torch.equal(new[: len(old)], old)
            assert len(new) == len(old) + told[table].new > len(old)
        assert told[table].dropped == 0


def test_a_hash_of_other_buckets_starts_fresh_and_says_so(
    folder: Path, tmp_path: Path, spark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    values = json.loads(json.dumps(CONFIG))
    values["features"]["sparse"][2]["ops"] = [{"hash": 40}]
    values["data"]["root"] = str(folder / "day1")
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump(values))
    prepare(None, RunConfig.load(tmp_path / "wide.yaml"), tmp_path / "wide", spark=spark)
    arguments = ["remap", str(tmp_path / "wide.yaml"), "--from", str(folder / "day1_run"), "--json"]
    arguments += ["--data", str(tmp_path / "wide"), "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert {"table": "site", "kept": 0, "new": 40, "dropped": 30} in answer["tables"]
    assert "'site'" in answer["warnings"][0]
    assert answer["warnings"][0] in said.err
    assert main(arguments) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "kind", "named"),
    [
        ("tables.user.embedding_dim=4", CheckpointError, "embedding_dim"),
        ("tables.visitor.ids=null", ConfigError, "visitor"),
        ("model.over_arch_layer_sizes=[16]", CheckpointError, "over_arch"),
        ("train.embedding_optimizer.name=sgd", ConfigError, "embedding_optimizer"),
        ("model={name: dcn_v2, embedding_dim: 8}", CheckpointError, "parameter"),
    ],
)
def test_a_changed_model_is_refused(
    folder: Path, tmp_path: Path, override: str, kind: type[Exception], named: str
) -> None:
    with pytest.raises(kind, match=named):
        remap(folder / "day1_run", config(override), folder / "day2_data", tmp_path / "run")
    assert not any(tmp_path.iterdir())


def test_other_features_and_lost_vocabularies_are_refused(folder: Path, tmp_path: Path, spark: Any) -> None:
    values = json.loads(json.dumps(CONFIG))
    values["features"]["sparse"][2]["columns"] = "age"
    values["features"]["dense"] = []
    other = RunConfig.from_dict(values, where="test")
    prepare(folder / "day1", other, tmp_path / "other", spark=spark)
    with pytest.raises(SpecMismatchError, match="feature 'site': only in the run"):
        remap(folder / "day1_run", other, tmp_path / "other", tmp_path / "run")
    with pytest.raises(DataError, match="--trained-on"):
        # Another day's vocabulary is not the run's.
        remap(
            folder / "day1_run",
            config(),
            folder / "day2_data",
            tmp_path / "run",
            trained_on=folder / "day2_data",
        )
    assert not (tmp_path / "run").exists()


def test_the_start_can_be_evaluated(folder: Path, remapped: Remapped) -> None:
    found = evaluate(remapped.path, checkpoint="step_00000000")
    assert found.metrics["auc"] > 0.6
    assert sorted(path.name for path in (folder / "day1_run" / "checkpoints").iterdir())  # it is still there
