"""The public verbs of shardrec, each loaded on first use.

```python
from jobs import Cluster, RunConfig, evaluate, plan, prepare, recommend, train
```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.baselines import BaselineResult as BaselineResult
    from jobs.baselines import baseline as baseline
    from jobs.cluster import Cluster as Cluster
    from jobs.copying import copy_dataset as copy_dataset
    from jobs.planning import plan as plan
    from jobs.remapping import Remapped as Remapped
    from jobs.remapping import remap as remap
    from jobs.results import Dataset as Dataset
    from jobs.results import Evaluation as Evaluation
    from jobs.results import TrainResult as TrainResult
    from jobs.scoring.index_search import ItemIndex as ItemIndex
    from jobs.scoring.index_search import search as search
    from jobs.scoring.item_index import index as index
    from jobs.scoring.mining import mine_negatives as mine_negatives
    from jobs.scoring.recommendation import recommend as recommend
    from jobs.synthesis.pipeline import Synthesis as Synthesis
    from jobs.synthesis.pipeline import synthesize as synthesize
    from jobs.verbs import evaluate as evaluate
    from jobs.verbs import prepare as prepare
    from jobs.verbs import train as train
    from sharding.plan import Plan as Plan
    from trainer.config import RunConfig as RunConfig

# Loaded on first use: Spark executors import this package, and they must not load torch.
_PLACES = {
    "BaselineResult": "jobs.baselines",
    "Cluster": "jobs.cluster",
    "Dataset": "jobs.results",
    "Evaluation": "jobs.results",
    "ItemIndex": "jobs.scoring.index_search",
    "Plan": "sharding.plan",
    "Remapped": "jobs.remapping",
    "RunConfig": "trainer.config",
    "Synthesis": "jobs.synthesis.pipeline",
    "TrainResult": "jobs.results",
    "baseline": "jobs.baselines",
    "copy_dataset": "jobs.copying",
    "evaluate": "jobs.verbs",
    "index": "jobs.scoring.item_index",
    "mine_negatives": "jobs.scoring.mining",
    "plan": "jobs.planning",
    "prepare": "jobs.verbs",
    "recommend": "jobs.scoring.recommendation",
    "remap": "jobs.remapping",
    "search": "jobs.scoring.index_search",
    "synthesize": "jobs.synthesis.pipeline",
    "train": "jobs.verbs",
}

__all__ = [
    "BaselineResult",
    "Cluster",
    "Dataset",
    "Evaluation",
    "ItemIndex",
    "Plan",
    "Remapped",
    "RunConfig",
    "Synthesis",
    "TrainResult",
    "baseline",
    "copy_dataset",
    "evaluate",
    "index",
    "mine_negatives",
    "plan",
    "prepare",
    "recommend",
    "remap",
    "search",
    "synthesize",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'jobs' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
