"""Items that targets are ranked among: drawn for each row, all different, each of those left as likely.

What is drawn follows the seed, the number of the row and the item, by a hash: it is the same at every world
size, and whatever batch the row is in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sharding.hashing import signed64, splitmix64_, unit_interval
from trainer.item_keys import NO_ITEM, largest_keys
from trainer.item_sampling import among

# Hashes that are made at once.
_AT_ONCE = 1 << 20
_CHANCE_STEP = 0x9FB21C651E98DF25  # Odd constants: both ways to draw share no key.
_ORDER_STEP = 0xD6E8FEB86659FD93


def drawn_candidates(
    rows_B: Tensor, left_out: tuple[Tensor, Tensor], first: int, num_items: int, count: int, seed: int
) -> Tensor:
    """Return `count` items of each row, or all that may be drawn where these are no more.

    Most rows find theirs among twice as many draws. A row that does not, because it leaves out most items,
    gets those whose hashes are the largest of all items'.

    Args:
        rows_B: numbers of the rows.
        left_out: ids [H] that are not drawn for a row, any number of times, and the places of their rows;
            ids below the first item do not count.
        first: first id that is an item.
        num_items: N, ids from there on.
        count: C.
        seed: of the draws.

    Returns:
        Ids [B, C]; 0 where there are fewer.
    """
    ids_H, holder_H = left_out
    item_H, holder_H = ids_H[ids_H >= first] - first, holder_H[ids_H >= first]
    pairs_H = torch.sort(holder_H * num_items + item_H).values
    draws = 2 * count + 16
    found = []
    place_B = torch.arange(len(rows_B), device=rows_B.device)
    for place_R in torch.split(place_B, max(1, _AT_ONCE // draws)):
        key_R = splitmix64_(rows_B[place_R] + signed64(seed * _CHANCE_STEP))
        found.append(_by_chance(key_R, place_R, pairs_H, num_items, draws, count))
    items_BC = torch.cat(found)
    few_R = (items_BC[:, -1] < 0).nonzero().squeeze(1)
    if len(few_R):
        number_B = torch.full_like(rows_B, -1)
        number_B[few_R] = place_B[: len(few_R)]
        row_H = number_B[holder_H]
        held = (item_H[row_H >= 0], row_H[row_H >= 0])
        key_R = splitmix64_(rows_B[few_R] + signed64(seed * _ORDER_STEP))
        items_BC[few_R] = _by_order(key_R, held, num_items, count)
    return torch.where(items_BC < 0, 0, items_BC + first)


def _by_chance(
    key_R: Tensor, place_R: Tensor, pairs_H: Tensor, num_items: int, draws: int, count: int
) -> Tensor:
    """Return the first `count` different items of each row's draws, [R, C]; -1 in rows that have fewer."""
    keys_RD = splitmix64_(key_R.unsqueeze(1) + torch.arange(draws, device=key_R.device))
    item_RD = (unit_interval(keys_RD) * num_items).long().clamp_(max=num_items - 1)
    sorted_RD, order_RD = item_RD.sort(dim=1, stable=True)
    again_RD = nn.functional.pad(sorted_RD[:, 1:] == sorted_RD[:, :-1], (1, 0))
    free_RD = torch.empty_like(again_RD).scatter_(1, order_RD, ~again_RD)
    free_RD &= ~among(place_R.unsqueeze(1) * num_items + item_RD, pairs_H)
    chosen_RD = free_RD & (free_RD.cumsum(dim=1, dtype=torch.int32) <= count)
    enough_R = chosen_RD.sum(dim=1) == count
    found_RC = torch.full((len(key_R), count), -1, device=key_R.device)
    found_RC[enough_R] = item_RD[enough_R][chosen_RD[enough_R]].reshape(-1, count)
    return found_RC


def _by_order(key_R: Tensor, held: tuple[Tensor, Tensor], num_items: int, count: int) -> Tensor:
    """Return the `count` items of each row with the largest hashes of those not held, [R, C]; -1 for none."""
    held_H, holder_H = held
    hash_RC = torch.full((len(key_R), 0), NO_ITEM, device=key_R.device)
    item_RC = hash_RC
    step = max(1, _AT_ONCE // len(key_R))
    for begin in range(0, num_items, step):
        item_N = torch.arange(begin, min(begin + step, num_items), device=key_R.device)
        hash_RN = splitmix64_(key_R.unsqueeze(1) + item_N)
        here_H = (held_H >= begin) & (held_H < begin + step)
        hash_RN[holder_H[here_H], held_H[here_H] - begin] = NO_ITEM
        best = largest_keys(count, hash_RN, item_N.expand_as(hash_RN))
        both = (torch.cat(pair, dim=1) for pair in zip((hash_RC, item_RC), best, strict=True))
        hash_RC, item_RC = largest_keys(count, *both)
    item_RC = item_RC.masked_fill(hash_RC == NO_ITEM, -1)
    return nn.functional.pad(item_RC, (0, count - item_RC.shape[1]), value=-1)
