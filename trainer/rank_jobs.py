"""Jobs that ranks run besides training: evaluating a split and scoring rows.

A job has its own folder with a `request.json`; the run folder that it names stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from sharding.hosts import RankContext
from sharding.plan import Plan
from trainer.assembly import Assembly, assemble, open_split, scoring_config
from trainer.batch import Batch
from trainer.checkpoint import read_progress
from trainer.config import RunConfig
from trainer.data import prefetched
from trainer.evaluation import Predictions, predict, predictions_by_batch
from trainer.item_features import load_item_features
from trainer.measuring import SplitMeasure, rows_skipped
from trainer.records import TaskLabel
from trainer.run_folder import RunFolder, read_json, write_json
from trainer.schema import Manifest
from trainer.storage import as_place

REQUEST_FILE = "request.json"
RESULT_FILE = "result.json"
PLAN_FILE = "plan.json"
SCORES_FILE = "scores.parquet"
SCORES_FOLDER = "scores"


@dataclass(frozen=True)
class Request:
    """What a job is asked for.

    Attributes:
        run: run folder.
        checkpoint: name of the checkpoint inside it.
        dataset: data set folder to read.
        split: its split.
        by: kept raw column to break metrics down by.
        on_corrupt: what to do at damaged part files; None leaves it to the run's config.
        confidence: level of confidence intervals; None for none.
        options: what else the job wants to know.
        candidates: items that targets of user rows are ranked among; None leaves it to the run's config.
    """

    run: str
    checkpoint: str
    dataset: str
    split: str
    by: str | None = None
    on_corrupt: Literal["fail", "skip"] | None = None
    confidence: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    candidates: int | Literal["all"] | None = None

    def config(self) -> RunConfig:
        """Return the config of the run, changed as the request says."""
        run = RunFolder(Path(self.run)).config()
        changes: dict[str, Any] = {}
        if self.on_corrupt is not None:
            changes["data"] = run.data.model_copy(update={"on_corrupt": self.on_corrupt})
        if self.candidates is not None:
            candidates, at = None if self.candidates == "all" else self.candidates, run.metrics.at
            if candidates is not None and at is not None:
                at = [k for k in at if k <= candidates] or None
            changes["metrics"] = run.metrics.model_copy(update={"candidates": candidates, "at": at})
            # What training went by need not be there among so many.
            changes["train"] = run.train.model_copy(update={"early_stopping": None, "plateau": None})
        return run.model_copy(update=changes)

    def save(self, folder: Path) -> None:
        """Write `request.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / REQUEST_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Request:
        """Read `request.json`."""
        return cls(**read_json(folder / REQUEST_FILE))


def evaluate_rank(job_folder: Path, context: RankContext) -> str:
    """Evaluate a checkpoint on a split; rank 0 writes `result.json`."""
    request = Request.load(job_folder)
    folder, dataset = RunFolder(Path(request.run)), as_place(request.dataset)
    run, manifest = request.config(), Manifest.load(dataset)
    assembly, batches, shift = assembled(job_folder, request, run, manifest, context)
    measure = SplitMeasure.open(
        run,
        manifest,
        dataset,
        request.split,
        logit_shift=shift,
        by=request.by,
        confidence=request.confidence,
    )
    found = measure.of(assembly.task, batches, context.device)
    ids = assembly.ids.lookup_figures()
    skipped = rows_skipped(found, manifest.split(request.split).rows, request.split)
    if context.rank == 0:
        intervals = (
            {"confidence": request.confidence, "intervals": found.intervals} if found.intervals else {}
        )
        result = {
            "split": request.split,
            "rows": found.rows,
            "rows_skipped": skipped,
            "checkpoint": request.checkpoint,
            "step": read_progress(folder.checkpoints / request.checkpoint).step,
            "metrics": found.metrics,
            **intervals,
            "by": {} if request.by is None else {request.by: found.segments},
            "ids": ids,
        }
        write_json(job_folder / RESULT_FILE, result)
    return "finished"


def score_rank(job_folder: Path, context: RankContext) -> str:
    """Score the rows of a split; rank 0 writes `scores.parquet` with columns `row` and `score_columns`."""
    request = Request.load(job_folder)
    # Whoever asks for scores takes them by row number: none may be missing.
    run = replace(request, on_corrupt="fail").config()
    manifest = Manifest.load(as_place(request.dataset))
    assembly, batches, shift = assembled(job_folder, request, run, manifest, context)
    predictions = predict(assembly.task, batches, context.device, shift, manifest.spec.tasks)
    if predictions is not None:
        pq.write_table(_scores(predictions), job_folder / SCORES_FILE)
    return "finished"


def score_parts_rank(job_folder: Path, context: RankContext) -> str:
    """Do the same as `score_rank`, however many rows there are: each rank writes its own to `scores/`."""
    request = Request.load(job_folder)
    run = replace(request, on_corrupt="fail").config()
    manifest = Manifest.load(as_place(request.dataset))
    folder = job_folder / SCORES_FOLDER
    folder.mkdir(exist_ok=True)
    tasks = manifest.spec.tasks
    schema = pa.schema({"row": pa.int64(), **{name: pa.float64() for name in score_columns(tasks)}})
    with pq.ParquetWriter(folder / f"part-{context.rank:05d}.parquet", schema) as writer:
        assembly, batches, shift = assembled(job_folder, request, run, manifest, context)
        for found in predictions_by_batch(assembly.task, batches, context.device, shift, tasks):
            writer.write_table(_scores(found))
    return "finished"


def score_columns(tasks: Sequence[TaskLabel]) -> list[str]:
    """Return the columns of scores: `probability` or `rating`; of several tasks `click_probability`."""
    kinds = ["rating" if task.is_rating else "probability" for task in tasks]
    if len(tasks) == 1:
        return kinds
    return [f"{task.name}_{kind}" for task, kind in zip(tasks, kinds, strict=True)]


def _scores(found: Predictions) -> pa.Table:
    all_tasks = (found, *found.others)
    names = score_columns([one.task for one in all_tasks])
    scores = {name: one.scores() for name, one in zip(names, all_tasks, strict=True)}
    return pa.table({"row": found.rows_N, **scores})


def assembled(
    job_folder: Path, request: Request, run: RunConfig, manifest: Manifest, context: RankContext
) -> tuple[Assembly, Iterator[Batch], float]:
    """Return the loaded model, this rank's batches, and what is added to logits."""
    folder, run = RunFolder(Path(request.run)), scoring_config(run, context.device.type)
    trained_on = folder.manifest()
    trained_on.require_spec(manifest.spec, request.dataset)
    reader = open_split(run, manifest, as_place(request.dataset), request.split, context, training=False)
    assembly = assemble(run, trained_on, Plan.load(job_folder / PLAN_FILE), context)
    load_item_features(assembly.task, folder.dataset(), context.device)
    assembly.load(folder.checkpoints / request.checkpoint, weights_only=True)
    pin = context.device.type == "cuda"
    batches = prefetched(reader.batches(0), run.data.prefetch_batches, pin)
    batches = assembly.ids.looked_up(batches, context.device)
    shift = manifest.logit_shift(request.split, trained_on)
    return assembly, batches, shift
