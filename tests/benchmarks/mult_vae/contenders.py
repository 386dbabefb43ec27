"""Mult-VAE without shardrec, on rows that it prepared: written from the paper, or RecBole's.

    python contenders.py DATA < settings.json      # a list of settings, one line of JSON for each

`dense` is the network, loss, annealing and training of Liang et al. 2018 (arXiv:1802.05814, sections 2 and
4.2) in plain torch on dense rows of users; `recbole` is `MultiVAE` of RecBole 1.2 in the same loop, since its
own loop trains on the users that it evaluates. This file imports nothing of shardrec. Recall@20 is divided by
min(20, items to be found), as in section 4.1; the epoch of the best NDCG@100 on valid is the one that counts.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import nn

FIRST_ITEM = 2  # 0 is padding, 1 an item that training does not know.


def lists_of(folder: Path, column: str) -> list[np.ndarray]:
    """Return a column of lists of the part files of a split."""
    parts = [pq.read_table(path, columns=[column])[column] for path in sorted(folder.glob("*.parquet"))]
    return [np.asarray(value.as_py(), dtype=np.int64) for part in parts for value in part]


def dense_rows(lists: list[np.ndarray], items: int) -> torch.Tensor:
    """Return a row of 0 and 1 for each list."""
    rows = torch.zeros(len(lists), items)
    for row, ids in zip(rows, lists, strict=True):
        row[torch.from_numpy(ids[ids >= FIRST_ITEM] - FIRST_ITEM)] = 1.0
    return rows


class PaperVAE(nn.Module):
    """Equations 2 to 7: one hidden layer of 600, a latent vector of 200, tanh, dropout of the input."""

    def __init__(self, items: int, settings: dict[str, Any]) -> None:
        super().__init__()
        hidden, latent = settings["hidden"], settings["latent"]
        self.encoder = nn.Sequential(nn.Linear(items, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Tanh(), nn.Linear(hidden, items))
        self.dropout, self.cap, self.steps = settings["dropout"], settings["kl_weight"], settings["anneal"]
        self.step = 0
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.trunc_normal_(layer.bias, std=0.001)

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the mean negative ELBO of users, its KL divergence annealed."""
        self.step += 1
        weight = min(self.cap, self.step / self.steps) if self.steps else self.cap
        mean, log_variance = self.encoder(F.dropout(F.normalize(rows), self.dropout)).chunk(2, dim=1)
        latent = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        likelihood = (F.log_softmax(self.decoder(latent), dim=1) * rows).sum(dim=1)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
        return (weight * divergence - likelihood).mean()

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        """Return scores of items by the mean of the latent vector."""
        return self.decoder(self.encoder(F.normalize(rows)).chunk(2, dim=1)[0])


class RecBoleVAE(nn.Module):
    """RecBole's `MultiVAE`, given rows of users in place of its data set."""

    def __init__(self, items: int, settings: dict[str, Any]) -> None:
        super().__init__()
        from recbole.model.general_recommender.multivae import MultiVAE

        config = {
            "USER_ID_FIELD": "user",
            "ITEM_ID_FIELD": "item",
            "NEG_PREFIX": "neg_",
            "device": "cpu",
            "mlp_hidden_size": [settings["hidden"]],
            # Its latent vector has half of this.
            "latent_dimension": 2 * settings["latent"],
            "dropout_prob": settings["dropout"],
            "anneal_cap": settings["kl_weight"],
            "total_anneal_steps": settings["anneal"],
        }
        nothing = torch.zeros(1, 1, dtype=torch.int64)
        # It asks its data set for the number of items, and for histories that `get_rating_matrix` reads.
        dataset = SimpleNamespace(
            num=lambda field: items if field == "item" else 1,
            history_item_matrix=lambda **_: (nothing, nothing.float(), nothing[0]),
        )
        self.model = MultiVAE(config, dataset)
        self.model.get_rating_matrix = lambda rows: rows

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        """Return its loss."""
        return self.model.calculate_loss({"user": rows})

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        """Return its scores."""
        return self.model.forward(rows)[0]


MODELS = {"dense": PaperVAE, "recbole": RecBoleVAE}


class Split:
    """Users who are in no training row: items that a model may see of each, and those to be found."""

    def __init__(self, data: Path, name: str, items: int) -> None:
        self.seen = dense_rows(lists_of(data / name, "seen"), items)
        targets = lists_of(data / name, "targets")
        self.targets = dense_rows(targets, items)
        # Those that training does not know count as not found.
        self.wanted = torch.tensor([len(ids) for ids in targets], dtype=torch.float64)

    def metrics(self, scores: torch.Tensor) -> dict[str, float]:
        """Return Recall@20 and NDCG@100, equations 11 and 12, as means over users."""
        best = scores.masked_fill(self.seen > 0, -torch.inf).topk(100, dim=1).indices
        hits = self.targets.gather(1, best).double()
        discount = 1 / torch.log2(torch.arange(100, dtype=torch.float64) + 2)
        ideal = discount.cumsum(0)[self.wanted.clamp(max=100).long() - 1]
        ndcg = (hits * discount).sum(dim=1) / ideal
        recall = hits[:, :20].sum(dim=1) / self.wanted.clamp(max=20)
        return {"recall@20": float(recall.mean()), "ndcg@100": float(ndcg.mean())}


def trained(data: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train by some settings and return the metrics of the best epoch on valid."""
    torch.manual_seed(settings["seed"])
    clock, cpu = time.perf_counter(), time.process_time()
    lists = lists_of(data / "train", "seen")
    items = int(max(ids.max() for ids in lists)) + 1 - FIRST_ITEM
    rows = dense_rows(lists, items)
    valid, test = Split(data, "valid", items), Split(data, "test", items)
    model = MODELS[settings["model"]](items, settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
    best, best_epoch, best_weights = {"ndcg@100": -1.0}, 0, model.state_dict()
    for epoch in range(1, settings["epochs"] + 1):
        model.train()
        for batch in torch.randperm(len(rows)).split(settings["batch_size"]):
            optimizer.zero_grad()
            model.loss(rows[batch]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            found = valid.metrics(model.scores(valid.seen))
        if found["ndcg@100"] > best["ndcg@100"]:
            best, best_epoch, best_weights = found, epoch, copy.deepcopy(model.state_dict())
        if epoch - best_epoch >= settings["patience"]:
            break
    model.load_state_dict(best_weights)
    model.eval()
    with torch.no_grad():
        of_test = test.metrics(model.scores(test.seen))
    seconds = {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - clock}
    return {"valid": best, "test": of_test, "epoch": best_epoch, **settings, **seconds}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for one in json.load(sys.stdin):
        print(json.dumps(trained(Path(sys.argv[1]), one)), flush=True)
