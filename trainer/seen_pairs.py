"""Which pairs of user and item are in the training rows, in a few bytes a pair on every rank.

A Bloom filter: a pair that is there is always found; of the others it takes about one in a thousand for one
that is there, the same ones at every number of ranks and in every step.

Source: Bloom 1970, doi:10.1145/362686.362692; with all bits of a pair in one word, Putze et al. 2007, Cache-,
Hash- and Space-Efficient Bloom Filters, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sharding.given_rows import in_step
from sharding.hashing import signed64, splitmix64_
from sharding.hosts import RankContext
from trainer.assembly import open_split
from trainer.batch import Batch
from trainer.config import RunConfig
from trainer.data import prefetched
from trainer.errors import ConfigError
from trainer.inputs import model_inputs
from trainer.modules.item_model import ItemModel
from trainer.modules.item_section import ItemModelSection
from trainer.modules.over_ranks import world
from trainer.registry import model_section
from trainer.schema import Manifest
from trainer.storage import Place

BITS_PER_PAIR = 24
_BITS_SET = 5
_ITEM_STEP = 0xC2B2AE3D27D4EB4F  # Odd: pairs never share a key with draws.
_LARGEST = (1 << 31) - 1
_WORDS_AT_ONCE = 1 << 20
_MIB = 1 << 20


class SeenPairs:
    """The pairs that were added.

    Args:
        pairs: most that will be.
        device: where they are looked for.

    Attributes:
        words_W: int64 [W], their bits.
    """

    def __init__(self, pairs: int, device: torch.device | str = "cpu") -> None:
        self.words_W = torch.zeros(words_for(pairs), dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, users_N: Tensor, items_N: Tensor) -> None:
        """Add pairs.

        Args:
            users_N: ids.
            items_N: ids.
        """
        word_N, shifts = self._places(users_N, items_N)
        place_M = torch.unique(torch.cat([(word_N << 6) | shift_N for shift_N in shifts]))
        word_M, bit_M = place_M >> 6, torch.ones_like(place_M) << (place_M & 63)
        new_M = (self.words_W[word_M] & bit_M) == 0
        # Each bit comes once and is not set yet: adding sets it.
        self.words_W.index_add_(0, word_M[new_M], bit_M[new_M])

    @torch.no_grad()
    def holds(self, users: Tensor, items: Tensor) -> Tensor:
        """Return whether each pair was added, bool of the shape of `items`.

        Args:
            users: ids, of a shape that broadcasts to that of `items`.
            items: ids.
        """
        word, shifts = self._places(users, items)
        bits = self.words_W[word]
        found = bits >> shifts[0]
        for shift in shifts[1:]:
            found &= bits >> shift
        return (found & 1).bool()

    def join_ranks(self) -> None:
        """Take in the pairs of the other ranks; every rank calls it."""
        ranks = world()[1]
        if ranks == 1:
            return
        for part_W in torch.split(self.words_W, _WORDS_AT_ONCE):
            every = [torch.empty_like(part_W) for _ in range(ranks)]
            dist.all_gather(every, part_W.contiguous())
            for other_W in every:
                part_W |= other_W

    def _places(self, users: Tensor, items: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the word of each pair and the places of its bits in the word."""
        key = splitmix64_(splitmix64_(users.clone()) + items * signed64(_ITEM_STEP))
        upper, lower = (key >> 33) & _LARGEST, key & _LARGEST
        word = (upper * len(self.words_W)) >> 31
        return word, [(lower >> (6 * number)) & 63 for number in range(_BITS_SET)]


def words_for(pairs: int) -> int:
    """Return the 64-bit words of a filter of so many pairs."""
    return max(1, -(-pairs * BITS_PER_PAIR // 64))


def check_seen_pairs(run: RunConfig, manifest: Manifest) -> None:
    """Refuse a filter that does not fit `model.negatives.seen_memory_mib`, before anything is launched.

    Raises:
        ConfigError: naming the memory that it takes.
    """
    section = model_section(run.model)
    if not isinstance(section, ItemModelSection) or section.negatives.exclude_seen_by is None:
        return
    section.completed(model_inputs(run, manifest.spec, manifest.statistics, section.embedding_dim))
    rows, allowed = manifest.split("train").rows, section.negatives.seen_memory_mib
    needed = words_for(rows) * 8 / _MIB
    if needed > allowed or words_for(rows) > _LARGEST:
        fixes = ["leave out model.negatives.exclude_seen_by"]
        if words_for(rows) <= _LARGEST:
            fixes.insert(0, f"model.negatives.seen_memory_mib: {int(needed) + 1}")
        raise ConfigError(
            "what users have met takes more memory on each rank than allowed",
            where="model.negatives.seen_memory_mib",
            got=f"{needed:,.0f} MiB for {rows:,} training rows, {BITS_PER_PAIR} bits each",
            allowed=f"{min(allowed, _LARGEST * 8 // _MIB):,} MiB",
            fixes=fixes,
        )


def load_seen_pairs(
    model: nn.Module, run: RunConfig, manifest: Manifest, dataset: Place, context: RankContext
) -> None:
    """Give a model that draws negatives what users have met in training; every rank calls it.

    Models that do not ask for it need none. Each rank reads its share of the training rows once.

    Args:
        model: of a run, sharded or not.
        run: the config.
        manifest: of the data set.
        dataset: the folder that it trains on.
        context: this rank among the others.

    Raises:
        ConfigError: it takes more memory than allowed.
        DataError: a part file is missing or damaged.
        StoreError: the store cannot be read.
    """
    for module in model.modules():
        if isinstance(module, ItemModel) and module.seen_by is not None:
            check_seen_pairs(run, manifest)
            seen = SeenPairs(manifest.split("train").rows, context.device)
            reader = open_split(run, manifest, dataset, "train", context, training=False)
            batches = prefetched(reader.batches(0), run.data.prefetch_batches)
            in_step(_added(seen, module, batches, context.device), context.device)
            seen.join_ranks()
            module.sampler.seen = seen


def _added(
    seen: SeenPairs, model: ItemModel, batches: Iterator[Batch], device: torch.device
) -> Iterator[None]:
    assert model.seen_by is not None
    for batch in batches:
        moved = batch.to(device)
        users_B = moved.sparse[model.seen_by].values()
        items_B = moved.sparse[model.item_feature].values()
        # Users that are not known one by one share an id, and would rule out each other's items.
        wanted_B = model.is_positive(moved) & (users_B >= model.first_user)
        seen.add(users_B[wanted_B], items_B[wanted_B])
        yield
