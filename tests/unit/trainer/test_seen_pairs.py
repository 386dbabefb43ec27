"""Pairs that were met: none forgotten, few made up, the same on all ranks, and none of them a negative."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
import torch

from jobs import RunConfig
from tests.support.ranks import run_distributed
from tests.support.tiny import tiny_data
from tests.unit.trainer.models.examples import NUM_EMBEDDINGS, example_model
from tests.unit.trainer.models.item_examples import event_inputs, item_batch, user_inputs
from trainer.config import ModelConfig
from trainer.errors import ConfigError
from trainer.item_sampling import ItemNegatives, ItemSampler
from trainer.modules.item_model import ItemModel
from trainer.registry import model_section
from trainer.seen_pairs import SeenPairs, check_seen_pairs

CONFIG: dict[str, Any] = {
    "name": "seen",
    "data": {"label": {"column": "y"}, "num_lanes": 4},
    "features": {"sparse": [{"columns": "s*"}]},
    "model": {
        "name": "ncf",
        "user": "s0",
        "item": "s1",
        "embedding_dim": 8,
        "negatives": {"per_query": 4, "exclude_seen_by": "s0"},
    },
    "train": {
        "global_batch_size": 64,
        "max_steps": 6,
        "log_every_steps": 1,
        "embedding_optimizer": {"name": "adagrad", "learning_rate": 0.3},
    },
}
ROWS = {"num_dense": 0, "num_lists": 0}


def random_pairs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, 1 << 40, (count,), generator=generator),
        torch.randint(0, 5_000, (count,), generator=generator),
    )


def test_every_pair_is_found_and_about_one_other_in_a_thousand() -> None:
    count = 50_000
    users, items = random_pairs(count, seed=1)
    seen = SeenPairs(count)
    for part in range(0, count, 7_001):  # pairs come twice, and in parts
        seen.add(users[part : part + 8_000], items[part : part + 8_000])
    assert seen.words_W.numel() * 8 <= 3 * count + 8
    assert seen.holds(users, items).all()
    others = seen.holds(*random_pairs(400_000, seed=2)).float().mean().item()
    assert 0 < others < 0.002
    # Neither side alone tells.
    assert seen.holds(users, items + 5_000).float().mean() < 0.003
    assert seen.holds(users + 1, items).float().mean() < 0.003


def test_users_broadcast_to_their_items() -> None:
    seen = SeenPairs(10)
    seen.add(torch.tensor([3, 3, 4]), torch.tensor([7, 8, 7]))
    found = seen.holds(torch.tensor([[3], [4]]), torch.tensor([[7, 8], [7, 8]]))
    assert found.tolist() == [[True, True], [True, False]]


def test_what_a_user_met_in_other_rows_is_not_drawn() -> None:
    users, met = torch.tensor([5, 6]), {5: [2, 3, 4], 6: [9]}
    seen = SeenPairs(4)
    for user, items in met.items():
        seen.add(torch.full((len(items),), user), torch.tensor(items))
    sampler = ItemSampler(2, NUM_EMBEDDINGS, ItemNegatives(per_query=400, exclude_seen_by="user"))
    rows, place, none = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64), torch.zeros(0).long()
    torch.manual_seed(3)
    freely = sampler.per_query(rows, place, none, none, users)
    sampler.seen = seen
    torch.manual_seed(3)
    found = sampler.per_query(rows, place, none, none, users)
    for row, user in enumerate(users.tolist()):
        assert set(found[row].tolist()) == set(range(2, NUM_EMBEDDINGS)) - set(met[user])
        # Only what was wrong is drawn again.
        right = ~torch.isin(freely[row], torch.tensor(met[user]))
        assert torch.equal(found[row][right], freely[row][right])


def test_a_model_asks_for_the_users_of_its_queries() -> None:
    model = example_model(
        "ncf", event_inputs(), negatives={"per_query": 30, "exclude_seen_by": "user"}, mlp_layer_sizes=[8]
    )
    assert isinstance(model, ItemModel)
    batch = item_batch(event_inputs(), 12)
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Spy:
        def holds(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
            asked.append((users, items))
            return items % 2 == 0  # every user met the even items

    model.sampler.seen = Spy()
    drawn: list[torch.Tensor] = []
    lookup = model.lookup.forward
    model.lookup.forward = lambda sparse, given=None: (  # type: ignore[method-assign]
        drawn.append((given or {})["item:negatives"].values()) or lookup(sparse, given)
    )
    model(batch)
    wanted = batch.sparse["user"].values()[model.is_positive(batch)]
    assert asked[0][0].tolist() == wanted.repeat_interleave(30).tolist()
    assert (drawn[0] % 2 == 1).sum() > 0
    assert not ((drawn[0] % 2 == 0) & (drawn[0] > 0)).any()


@pytest.mark.parametrize(
    ("keys", "inputs", "where"),
    [
        ({"exclude_seen_by": "user", "shared": 2}, event_inputs(), "model.negatives"),
        ({"exclude_seen_by": "person", "per_query": 2}, event_inputs(), "exclude_seen_by"),
        ({"exclude_seen_by": "item", "per_query": 2}, event_inputs(), "exclude_seen_by"),
        ({"exclude_seen_by": "seen", "per_query": 2}, event_inputs(), "exclude_seen_by"),
        ({"exclude_seen_by": "user", "per_query": 2}, user_inputs(), "exclude_seen_by"),
    ],
)
def test_what_tells_no_user_is_refused(keys: dict[str, Any], inputs: Any, where: str) -> None:
    keys = {"item": "seen" if "item" not in inputs.features else "item", "negatives": keys}
    with pytest.raises(ConfigError) as error:
        model_section(ModelConfig(name="mf", objective="bpr", **keys)).completed(inputs)
    assert where in error.value.where


def test_too_much_memory_is_refused_with_the_figure(tmp_path: Path) -> None:
    run = RunConfig.from_dict(CONFIG)
    manifest = tiny_data(tmp_path / "data", run, **ROWS).manifest
    check_seen_pairs(run, manifest)
    split = manifest.splits["train"].model_copy(update={"rows": 1_000_000_000})
    larger = manifest.model_copy(update={"splits": {**manifest.splits, "train": split}})
    with pytest.raises(ConfigError) as error:
        check_seen_pairs(run, larger)
    assert "2,861 MiB for 1,000,000,000 training rows" in str(error.value)
    assert "model.negatives.seen_memory_mib: 2862" in error.value.fixes
    check_seen_pairs(run.override("model.negatives.seen_memory_mib=2862"), larger)


def loaded_words(rank: int, world_size: int, data: str, config: dict[str, Any]) -> list[int]:
    """Return the filter that a rank has after reading its share."""
    from sharding.hosts import RankContext
    from trainer.assembly import build_task
    from trainer.schema import Manifest
    from trainer.seen_pairs import load_seen_pairs

    run, manifest = RunConfig.from_dict(config), Manifest.load(data)
    task, _ = build_task(run, manifest, "meta")
    context = RankContext(rank, world_size, rank, world_size, "here", torch.device("cpu"))
    load_seen_pairs(task, run, manifest, Path(data), context)
    assert isinstance(task.model, ItemModel)
    assert isinstance(task.model.sampler.seen, SeenPairs)
    words: list[int] = task.model.sampler.seen.words_W.tolist()
    return words


def test_ranks_read_the_positives_of_all_shares(tmp_path: Path) -> None:
    data = tiny_data(tmp_path / "data", RunConfig.from_dict(CONFIG), **ROWS)
    (alone,) = run_distributed(loaded_words, 1, str(data.path), CONFIG)
    for words in run_distributed(loaded_words, 2, str(data.path), CONFIG):
        assert words == alone
    rows = ds.dataset(data.path / "train", format="parquet").to_table().to_pydict()
    pairs = zip(rows["s0"], rows["s1"], rows["label"], strict=True)
    positives = {(user, item) for user, item, label in pairs if label > 0.5 and user >= 1 and item >= 1}
    seen = SeenPairs(1000)
    seen.words_W = torch.tensor(alone)
    users, items = torch.meshgrid(torch.arange(50), torch.arange(50), indexing="ij")
    found = {(int(u), int(i)) for u, i in seen.holds(users, items).nonzero().tolist()}
    assert positives <= found
    assert len(found - positives) < 20  # of 2,000 others
