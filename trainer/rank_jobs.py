"""Jobs that ranks run besides training: evaluating a split and scoring rows.

A job has its own folder with a `request.json`; the run folder that it names stays as it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from sharding.hosts import RankContext
from sharding.plan import Plan
from trainer.assembly import assemble, open_split, scoring_config
from trainer.checkpoint import read_progress
from trainer.data import prefetched
from trainer.errors import DataError
from trainer.evaluation import Predictions, metrics_by_value, predict
from trainer.metrics import sigmoid
from trainer.run_folder import RunFolder, read_json, write_json
from trainer.schema import KEEP_PREFIX, Manifest

REQUEST_FILE = "request.json"
RESULT_FILE = "result.json"
PLAN_FILE = "plan.json"
SCORES_FILE = "scores.parquet"


@dataclass(frozen=True)
class Request:
    """What a job is asked for.

    Attributes:
        run: run folder.
        checkpoint: name of the checkpoint inside it.
        dataset: data set folder to read.
        split: its split.
        by: kept raw column to break metrics down by.
    """

    run: str
    checkpoint: str
    dataset: str
    split: str
    by: str | None = None

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
    predictions = _predictions(job_folder, request, context)
    if predictions is not None:
        by = {}
        if request.by is not None:
            values = kept_column(Path(request.dataset), request.split, request.by)
            by[request.by] = metrics_by_value(predictions, values.take(pa.array(predictions.rows_N)))
        step = read_progress(RunFolder(Path(request.run)).checkpoints / request.checkpoint).step
        metrics = predictions.metrics()
        result = {
            "split": request.split,
            "rows": len(predictions.rows_N),
            "checkpoint": request.checkpoint,
            "step": step,
            "metrics": metrics,
            "by": by,
        }
        write_json(job_folder / RESULT_FILE, result)
    return "finished"


def score_rank(job_folder: Path, context: RankContext) -> str:
    """Score the rows of a split; rank 0 writes `scores.parquet` with columns `row` and `probability`."""
    request = Request.load(job_folder)
    predictions = _predictions(job_folder, request, context)
    if predictions is not None:
        table = pa.table({"row": predictions.rows_N, "probability": sigmoid(predictions.logits_N)})
        pq.write_table(table, job_folder / SCORES_FILE)
    return "finished"


def require_kept_column(dataset: Path, split: str, column: str) -> None:
    """Check that a data set holds a kept raw column.

    Raises:
        DataError: it does not.
    """
    kept = [n.removeprefix(KEEP_PREFIX) for n in _rows(dataset, split).schema.names if KEEP_PREFIX in n]
    if column not in kept:
        raise DataError(
            "the data set does not hold this column",
            where=f"{dataset}: --by {column}",
            allowed=kept,
            fixes=[f"add {column} to data.keep and prepare again"],
        )


def kept_column(dataset: Path, split: str, column: str) -> pa.Array:
    """Return a kept raw column of a split, in row order."""
    return _rows(dataset, split).to_table(columns=[KEEP_PREFIX + column]).column(0).combine_chunks()


def _rows(dataset: Path, split: str) -> pads.Dataset:
    files = [str(dataset / part.path) for part in Manifest.load(dataset).split(split).files]
    return pads.dataset(files, format="parquet")


def _predictions(job_folder: Path, request: Request, context: RankContext) -> Predictions | None:
    folder = RunFolder(Path(request.run))
    run, dataset = scoring_config(folder.config(), context.device.type), Path(request.dataset)
    manifest = Manifest.load(dataset)
    folder.manifest().require_spec(manifest.spec, str(dataset))
    reader = open_split(run, manifest, dataset, request.split, context, training=False)
    assembly = assemble(run, folder.manifest(), Plan.load(job_folder / PLAN_FILE), context)
    assembly.load(folder.checkpoints / request.checkpoint, weights_only=True)
    batches = prefetched(reader.batches(0), run.data.prefetch_batches)
    return predict(assembly.task, batches, context.device)
