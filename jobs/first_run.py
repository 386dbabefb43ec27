"""The quickstart: every verb once on MovieLens-100K, from raw ratings to a report."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cluster import Cluster
from jobs.movielens import unpack_movielens_100k
from jobs.scoring.lists import Recommendations
from trainer.config import RunConfig
from trainer.run_folder import write_json

CONFIG = Path(__file__).parent / "configs" / "movielens_100k_dlrm.yaml"
USERS = ("1", "42", "405")


@dataclass(frozen=True)
class FirstRun:
    """What the quickstart leaves.

    Attributes:
        folder: everything lies in here.
        metrics: of the test split.
        recommendations: for three users.
        report: the HTML page.
        seconds: by step.
    """

    folder: Path
    metrics: dict[str, float]
    recommendations: Recommendations
    report: Path
    seconds: dict[str, float]

    def text(self) -> str:
        """Return the summary for the terminal."""
        metrics = "  ".join(
            f"{name} {self.metrics[name]:.4f}"
            for name in ("auc", "ne", "log_loss", "calibration", "accuracy")
        )
        steps = "  ".join(f"{name} {value:.0f} s" for name, value in self.seconds.items())
        return (
            f"{self.recommendations.text()}\n\n"
            f"test: {metrics}\n"
            f"time: {steps}  (in all {sum(self.seconds.values()):.0f} s)\n"
            f"report: {self.report}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "folder": str(self.folder),
            "metrics": self.metrics,
            "recommendations": self.recommendations.as_json(),
            "report": str(self.report),
            "seconds": self.seconds,
        }


def first_run(folder: Path, ranks: int = 2) -> FirstRun:
    """Prepare, plan, train, evaluate, recommend and report.

    Args:
        folder: data, run and report go here; an earlier quickstart's run is replaced.
        ranks: ranks that TorchDistributor starts on this machine.
    """
    import shutil

    from jobs.planning import check_layout_of, plan
    from jobs.scoring.recommendation import recommend_lists
    from jobs.session import spark_session
    from jobs.verbs import evaluate, prepare, train, with_input
    from sharding.report import plan_report
    from trainer.reporting import write_report

    clock = _Clock()
    raw = unpack_movielens_100k(folder / "ml-100k")
    run = with_input(RunConfig.load(CONFIG), raw)
    cluster = Cluster.local(ranks, on="local")
    clock.begin("prepare", "PySpark turns ratings, users and movies into sharded Parquet")
    spark = spark_session("shardrec quickstart")
    data = prepare(None, run, folder / "data", spark=spark)
    _say(data.report)
    check_layout_of(run, data, cluster)
    shutil.rmtree(folder / "run", ignore_errors=True)
    clock.begin("plan", "EmbeddingShardingPlanner places the embedding tables")
    layout = plan(run, data, cluster)
    _say(plan_report(layout))
    clock.begin("train", f"TorchDistributor starts {ranks} ranks of DistributedModelParallel")
    result = train(run, data, cluster, layout, out=folder / "run", resume=False)
    clock.begin("evaluate", "test split, each row once")
    metrics = evaluate(result, "test", "gender", cluster=Cluster.local()).metrics
    clock.begin("recommend", f"all movies scored for users {', '.join(USERS)}")
    found = recommend_lists(result, list(USERS), 10, cluster=Cluster.local(), spark=spark)
    write_json(result.path / "recommendations.json", found.as_json())
    clock.begin("report", "one page")
    report = write_report(result.path)
    seconds = clock.end()
    (folder / "quickstart.json").write_text(json.dumps({"metrics": metrics, "seconds": seconds}, indent=1))
    return FirstRun(folder, metrics, found, report, seconds)


class _Clock:
    """Announces each step on stderr and keeps its wall time."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._name = ""
        self._started = 0.0

    def begin(self, name: str, what: str) -> None:
        self._close()
        self._name, self._started = name, time.monotonic()
        _say(f"\n== {name}: {what}")

    def end(self) -> dict[str, float]:
        self._close()
        return dict(self._seconds)

    def _close(self) -> None:
        if self._name:
            self._seconds[self._name] = round(time.monotonic() - self._started, 1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
