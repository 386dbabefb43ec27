"""Where the targets of user rows stand among all items, or among some drawn ones, over the ranks' shares.

Every rank scores all rows of a step against its own share of the items, some of them at a time: no rank holds
all items, nor the scores of its share. A first pass finds the scores of the targets, a second one counts the
items above them; what ranks exchange are queries, lists of ids, scores of targets, counts and the best of
each share. A place is exact. Of equal scores the items that are no targets come first: a model that gives all
items one score has found nothing. A score that is no number comes last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from trainer.batch import Batch
from trainer.drawn_candidates import drawn_candidates
from trainer.item_keys import NO_ITEM, item_keys, scores_and_ids
from trainer.item_scoring import ItemScorer, ModelScorer, ScoredItems, columns_of
from trainer.list_figures import ListFigures, Step
from trainer.modules.over_ranks import gathered, summed, world
from trainer.modules.row_dropout import row_numbers
from trainer.modules.sequence_pooling import segment_rows

# Comparisons of scores that are made at once.
_AT_ONCE = 1 << 22
_FIGURE = "figure "


@dataclass(frozen=True)
class TargetRanks:
    """The rows of a split and where their targets stand; the same on every rank, in row order.

    Attributes:
        rows_L: row numbers.
        weights_L: sample weights.
        positives_L: targets of each row, those that no item of the table stands for included.
        list_P: for each target that was ranked the place of its row in `rows_L`.
        rank_P: its rank, from 1.
        top_LK: ids of the best items of each row, best first, 0 where there are fewer; K may be 0.
        figures: what `ListFigures` found for each row, [L] by name.
    """

    rows_L: NDArray[np.int64]
    weights_L: NDArray[np.float64]
    positives_L: NDArray[np.int64]
    list_P: NDArray[np.int64]
    rank_P: NDArray[np.int64]
    top_LK: NDArray[np.int64]
    figures: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def rank_targets(
    task: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    target: str,
    *,
    candidates: int | None = None,
    top: int = 0,
    figures: ListFigures | None = None,
    seed: int = 1,
    ranks_seen: bool = False,
) -> TargetRanks:
    """Rank the targets of this rank's batches with the other ranks; every rank calls it.

    Args:
        task: the sharded `TrainingTask` of an `ItemModel`.
        batches: see `rank_by`, like all that follows.
        device: where the model is.
        target: feature of the targets.
        candidates: drawn items to rank each target among.
        top: K of `top_LK`.
        figures: of the lists.
        seed: of the draws.
        ranks_seen: whether items that a row holds are ranked for it too.
    """
    was_training = task.training
    task.eval()
    found = rank_by(
        ModelScorer(task),
        batches,
        device,
        target,
        candidates=candidates,
        top=top,
        figures=figures,
        seed=seed,
        ranks_seen=ranks_seen,
    )
    task.train(was_training)
    return found


def rank_by(
    scorer: ItemScorer,
    batches: Iterable[Batch],
    device: torch.device,
    target: str,
    *,
    candidates: int | None = None,
    top: int = 0,
    figures: ListFigures | None = None,
    seed: int = 1,
    ranks_seen: bool = False,
) -> TargetRanks:
    """Rank the targets of this rank's batches by any scores of items; every rank calls it.

    Items that a row holds in its other lists of the items' table are not ranked for it, unless they may be
    targets of it.

    Args:
        scorer: gives the scores.
        batches: as many on every rank, padded with rows of weight 0.
        device: where the scorer computes.
        target: feature of the targets.
        candidates: rank each target among so many drawn items instead of all; none that is a target, or is
            not ranked.
        top: K of `top_LK`.
        figures: what to find out of the lists of best items; None for nothing.
        seed: of the draws, which follow the row number.
        ranks_seen: whether items that a row holds are ranked for it too, as any may be its target.
    """
    ranking = _Ranking(scorer, target, candidates, top, figures, seed, ranks_seen)
    with torch.no_grad():
        found = [ranking.step(batch.to(device, non_blocking=True)) for batch in batches]
    return _in_row_order(found, top, () if figures is None else figures.names)


class _Ranking:
    """One pass over a split; the items are looked up at its first batch."""

    def __init__(
        self,
        scorer: ItemScorer,
        target: str,
        candidates: int | None,
        top: int,
        figures: ListFigures | None,
        seed: int,
        ranks_seen: bool,
    ) -> None:
        self._scorer, self._target, self._top = scorer, target, top
        self._candidates, self._seed = candidates, seed
        self._figures, self._ranks_seen = figures, ranks_seen
        self._items: tuple[Tensor, Tensor] | None = None

    def step(self, batch: Batch) -> dict[str, NDArray[np.float64]]:
        """Return what a batch adds."""
        if self._items is None:
            self._items = self._scorer.items(batch)
        queries_BX, _ = gathered(self._scorer.queries(batch).float())
        rows_B, _ = gathered(row_numbers(batch.rows_B))
        weights_B, _ = gathered(batch.weights_B)
        held = [gathered_lists(batch.sparse[name]) for name in self._scorer.holders]
        seen_H, holder_H = (torch.cat(parts) for parts in zip(*held, strict=True))
        targets_P, row_P = gathered_lists(batch.sparse[self._target])
        unknown_P = targets_P < self._scorer.first
        unknown_B = torch.bincount(row_P[unknown_P], minlength=len(rows_B))
        # A known target twice in a row is one; unknown ones, which nothing can find, are as many as they are.
        row_P, targets_P = torch.unique(torch.stack([row_P, targets_P])[:, ~unknown_P], dim=1)
        left_out = (seen_H[:0], holder_H[:0]) if self._ranks_seen else (seen_H, holder_H)
        scored = ScoredItems(self._scorer, queries_BX, self._items, left_out)
        drawn_BC = self._drawn(rows_B, left_out, (targets_P, row_P))
        place_BC = torch.arange(len(rows_B), device=rows_B.device).unsqueeze(1).expand_as(drawn_BC)
        score_R = scored.of_pairs(
            torch.cat([row_P, place_BC.reshape(-1)]), torch.cat([targets_P, drawn_BC.reshape(-1)])
        )
        score_P, score_BC = score_R[: len(row_P)], score_R[len(row_P) :].reshape(drawn_BC.shape)
        counts_2P, top_BK = self._second_pass(scored, targets_P, row_P, score_P)
        if self._candidates is not None:
            # Where there are fewer, nothing stands beside a target: what is no number is never counted.
            score_BC = score_BC.masked_fill(drawn_BC == 0, torch.nan)
            counts_2P = torch.stack(_counted(score_BC, row_P, score_P))
        rank_P = 1 + counts_2P.sum(dim=0) + _order_of_targets(row_P, score_P)
        figures: dict[str, Tensor] = {}
        if self._figures is not None:
            lists = (seen_H, holder_H), (targets_P, row_P)
            step = Step(top_BK, *lists, *self._items, self._ranks_seen)
            figures = self._figures.of(step)
        return {
            "rows": _numbers(rows_B),
            "weights": _numbers(weights_B),
            "positives": _numbers(unknown_B + torch.bincount(row_P, minlength=len(rows_B))),
            "place": _numbers(row_P),
            "rank": _numbers(rank_P),
            "top": _numbers(top_BK),
            **{_FIGURE + name: _numbers(values_B) for name, values_B in figures.items()},
        }

    def _second_pass(
        self, scored: ScoredItems, targets_P: Tensor, row_P: Tensor, score_P: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what is above and beside targets, and the best items of rows; every rank calls it.

        Args:
            scored: scores of this rank's items.
            targets_P: ids, sorted by row.
            row_P: places of their rows.
            score_P: their scores.

        Returns:
            How many items that are no targets of the row are above each target and how many have its score,
            [2, P], zeros where targets are ranked among drawn items alone; and the ids of the `top` best
            items of all ranks, [B, K], of equal scores the smaller ids first.
        """
        rows, device = scored.rows, row_P.device
        counts_2P = torch.zeros(2, len(row_P), dtype=torch.int64, device=device)
        best_BK = torch.full((rows, 0), NO_ITEM, dtype=torch.int64, device=device)
        if self._candidates is not None and not self._top:
            return counts_2P, best_BK
        for ids_C, scores_BC in scored:
            if self._top:
                best_BK = _best_of(self._top, best_BK, _best_of(self._top, item_keys(scores_BC, ids_C)))
            if self._candidates is None:
                # Targets are compared by their order alone: no number is neither above another nor equal.
                column_P, here_P = columns_of(targets_P, ids_C)
                place = (row_P[here_P], column_P[here_P])
                others_BC = scores_BC.index_put(place, scores_BC.new_tensor(torch.nan))
                counts_2P += torch.stack(_counted(others_BC, row_P, score_P))
        if world()[1] > 1:
            # Ranks differ in how many they have: rows of the transposed are gathered.
            best_BK = _best_of(self._top, gathered(best_BK.T.contiguous())[0].T)
        top_BK = scores_and_ids(best_BK)[1]
        return summed(counts_2P), nn.functional.pad(top_BK, (0, self._top - top_BK.shape[1]))

    def _drawn(
        self, rows_B: Tensor, left_out: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return each row's drawn items, [B, C], 0 where there are fewer; C is 0 where none are asked for."""
        if self._candidates is None:
            return rows_B.new_zeros(len(rows_B), 0)
        held_H, holder_H = (torch.cat(parts) for parts in zip(left_out, targets, strict=True))
        scorer, count = self._scorer, self._candidates
        return drawn_candidates(rows_B, (held_H, holder_H), scorer.first, scorer.num_items, count, self._seed)


def _best_of(top: int, *keys: Tensor) -> Tensor:
    """Return the `top` largest keys of each row, largest first."""
    keys_BN = torch.cat(keys, dim=1)
    return keys_BN.topk(min(top, keys_BN.shape[1]), dim=1).values


def _counted(scores_BC: Tensor, place_R: Tensor, score_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many scores of its row are above each one, and how many equal it."""
    step = max(1, _AT_ONCE // max(1, scores_BC.shape[1]))
    above, equal = [place_R[:0]], [place_R[:0]]
    for first in range(0, len(place_R), step):
        rows_RC = scores_BC[place_R[first : first + step]]
        own_R1 = score_R[first : first + step].unsqueeze(1)
        above.append((rows_RC > own_R1).sum(dim=1))
        equal.append((rows_RC == own_R1).sum(dim=1))
    return torch.cat(above), torch.cat(equal)


def _order_of_targets(place_R: Tensor, score_R: Tensor) -> Tensor:
    """Return how many targets of its row come before each one: of higher score, or of equal and before it.

    Targets are sorted by row and id.
    """
    by_score = torch.argsort(score_R, descending=True, stable=True)
    order = by_score[torch.argsort(place_R[by_score], stable=True)]
    place_R = place_R.contiguous()
    first_R = torch.searchsorted(place_R, place_R)
    position_R = torch.empty_like(place_R)
    position_R[order] = torch.arange(len(order), device=order.device)
    return position_R - first_R


def gathered_lists(ids: JaggedTensor) -> tuple[Tensor, Tensor]:
    """Return the ids of all ranks' rows, and the place of each one's row among them."""
    lengths_B, _ = gathered(ids.lengths())
    values_H, _ = gathered(ids.values())
    return values_H, segment_rows(JaggedTensor(values_H, lengths=lengths_B))


def _numbers(values: Tensor) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = values.double().cpu().numpy()
    return numbers


def _in_row_order(
    found: list[dict[str, NDArray[np.float64]]], top: int, figures: Iterable[str]
) -> TargetRanks:
    if not found:
        none = np.zeros(0, np.int64)
        no_figures = {name: none.astype(float) for name in figures}
        return TargetRanks(none, none.astype(float), none, none, none, none.reshape(0, top), no_figures)
    begin = np.cumsum([0, *(len(step["rows"]) for step in found)])
    joined = {name: np.concatenate([step[name] for step in found]) for name in found[0]}
    list_P = np.concatenate([step["place"] + first for step, first in zip(found, begin, strict=False)])
    rows_N = joined["rows"].astype(np.int64)
    order = np.argsort(rows_N, kind="stable")
    order = order[np.searchsorted(rows_N[order], 0) :]
    new_place = np.full(len(rows_N), -1)
    new_place[order] = np.arange(len(order))
    list_P = new_place[list_P.astype(np.int64)]
    known = list_P >= 0
    by_list = np.lexsort((joined["rank"][known], list_P[known]))
    return TargetRanks(
        rows_N[order],
        joined["weights"][order],
        joined["positives"].astype(np.int64)[order],
        list_P[known][by_list],
        joined["rank"][known][by_list].astype(np.int64),
        joined["top"].astype(np.int64)[order],
        {name: joined[_FIGURE + name][order] for name in figures},
    )
