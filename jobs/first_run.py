"""The quickstart: every verb once on MovieLens-100K, from raw ratings to a report."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cluster import Cluster
from jobs.movielens import unpack_movielens_100k
from jobs.scoring.lists import Recommendations
from trainer.config import RunConfig
from trainer.errors import ShardrecError, UserError
from trainer.run_folder import RunFolder, read_json, write_json
from trainer.schema import Manifest

CONFIG = Path(__file__).parent / "configs" / "movielens_100k_dlrm.yaml"
USERS = ("1", "42", "405")
MARKER = "quickstart.json"
_MADE_BY = {"made_by": "shardrec quickstart"}
_STARTED = {
    "process": "DistributedModelParallel in this process",
    "local": "TorchDistributor starts {ranks} ranks of DistributedModelParallel",
    "spark": "TorchDistributor starts {ranks} ranks of DistributedModelParallel on Spark's executors",
    "torchrun": "torchrun starts {ranks} ranks of DistributedModelParallel",
}


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
            f"time: {steps}  (in all {sum(self.seconds.values()):.0f} s, without start-up)\n"
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


def first_run(folder: Path, cluster: Cluster) -> FirstRun:
    """Prepare, plan, train, evaluate, recommend and report.

    Args:
        folder: data, run and report go here; what an earlier quickstart left there is replaced. Executors
            must reach it too.
        cluster: where ranks train; those of Spark's executors evaluate and recommend as well.

    Raises:
        UserError: the folder holds a data set or a run that no quickstart made.
    """
    from jobs.launch import refuse_outer_torchrun
    from jobs.planning import check_layout_of, plan
    from jobs.scoring.recommendation import recommend_lists
    from jobs.session import spark_session
    from jobs.verbs import evaluate, prepare, train, with_input
    from sharding.report import plan_report
    from trainer.reporting import write_report

    refuse_outer_torchrun(cluster.on)
    clock, run = _Clock(), RunConfig.load(CONFIG)
    scoring = cluster if cluster.on == "spark" else Cluster.local()
    claim(folder, run.name)
    clock.begin("prepare", "PySpark turns ratings, users and movies into sharded Parquet")
    run = with_input(run, unpack_movielens_100k(folder / "ml-100k"))
    spark = cluster.spark or spark_session("shardrec quickstart")
    data = prepare(None, run, folder / "data", spark=spark)
    _say(data.report)
    check_layout_of(run, data, cluster)
    if (folder / "run").exists():
        shutil.rmtree(folder / "run")
    clock.begin("plan", "EmbeddingShardingPlanner places the embedding tables")
    layout = plan(run, data, cluster)
    _say(plan_report(layout))
    clock.begin("train", _STARTED[cluster.on].format(ranks=cluster.world_size))
    result = train(run, data, cluster, layout, out=folder / "run", resume=False)
    clock.begin("evaluate", "test split, each row once")
    metrics = evaluate(result, "test", "gender", cluster=scoring).metrics
    clock.begin("recommend", f"all movies scored for users {', '.join(USERS)}")
    found = recommend_lists(result, list(USERS), 10, cluster=scoring, spark=spark)
    write_json(RunFolder(result.path).recommendations_file, found.as_json())
    clock.begin("report", "one page")
    report = write_report(result.path)
    seconds = clock.end()
    write_json(folder / MARKER, {**_MADE_BY, "metrics": metrics, "seconds": seconds})
    return FirstRun(folder, metrics, found, report, seconds)


def claim(folder: Path, name: str) -> None:
    """Mark a folder as the quickstart's before anything is written there.

    Args:
        folder: of the quickstart.
        name: of its config: data set and run in the folder must bear it.

    Raises:
        UserError: it holds a data set or a run that no quickstart made.
    """
    foreign = [folder / part for part in _foreign(folder, name)]
    if foreign:
        raise UserError(
            "the quickstart would replace what no quickstart made",
            where=str(folder),
            got=", ".join(map(str, foreign)),
            allowed="a new folder, or that of an earlier quickstart",
            fixes=[
                "choose another folder: --folder FOLDER",
                f"move away or delete {' and '.join(map(str, foreign))}",
            ],
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MARKER, _MADE_BY)


def _foreign(folder: Path, name: str) -> list[str]:
    """Return what stands in the quickstart's way: by the marker, and by the names of data set and run."""
    there = [part for part in (MARKER, "data", "run") if not _is_empty(folder / part)]
    if not _is_marked(folder / MARKER):
        return there
    return [part for part in there if part != MARKER and _name_in(folder / part) != name]


def _name_in(folder: Path) -> str | None:
    """Return the name in a data set's manifest or a run's config; None for anything else."""
    try:
        if folder.name == "data":
            return Manifest.load(folder).name
        return RunFolder(folder).config().name
    except (ShardrecError, OSError, ValueError):
        return None


def _is_marked(marker: Path) -> bool:
    try:
        values = read_json(marker)
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.items() >= _MADE_BY.items()


def _is_empty(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


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
