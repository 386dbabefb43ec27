"""The verbs behind the command line and the notebooks: prepare, plan, train, evaluate."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jobs.cluster import Cluster
from jobs.given_plan import layout_of
from jobs.planning import as_dataset, check_layout_of, check_preparation
from jobs.rank_requests import chosen_checkpoint, job_folder, run_request
from jobs.results import Dataset, Evaluation, TrainResult
from jobs.resuming import check_resumable
from jobs.tracking import log_evaluation, tracked
from trainer.config import RunConfig
from trainer.errors import ConfigError
from trainer.run_folder import RunFolder, early_stop_text, read_json
from trainer.storage import Place, StorePath, as_local, as_place

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from jobs.preparation.earlier_days import EarlierDays
    from sharding.plan import Plan


def prepare(
    source: DataFrame | str | Path | None,
    run: RunConfig,
    out: str | Path | None = None,
    *,
    append: Literal["frozen", "grow"] | None = None,
    append_to: Literal["train", "valid", "test"] | None = None,
    history: DataFrame | str | Path | Sequence[str | Path] | None = None,
    staging: str | Path | None = None,
    spark: SparkSession | None = None,
) -> Dataset:
    """Turn raw rows into a prepared data set with PySpark.

    Args:
        source: a DataFrame; a file or folder (in place of `data.root`); or None for the config's source.
        run: the config.
        out: data set folder, or a URL such as `s3://bucket/prepared/ads`; default `prepared/<name>`. An
            earlier data set there stays valid until the new one is complete.
        append: add the rows to the data set that is there: `frozen` leaves its vocabularies as they are,
            `grow` gives new values ids after the old ones. One on a store is copied here and back.
        append_to: split that all appended rows go to; default as the config deals them.
        history: for `append`, the raw rows that the data set was made of, all of them: a DataFrame, or files
            and folders, read like `source`. Histories, `earlier`, duplicates and negatives need them.
        staging: folder to make a data set for a URL in, before it is copied; default the system's folder for
            temporary files, but none on a cluster, whose executors must all reach it.
        spark: session; default the active one, else a local one.

    Raises:
        ConfigError: an op or column group is wrong, or does not fit the data set to append to.
        DataError: the rows are missing, empty, damaged or of the wrong type, or the output is something else
            than a data set.
        StoreError: the store cannot be reached, refuses access, or keeps failing; what was prepared is kept.
    """
    from jobs.preparation.appending import append_rows
    from jobs.preparation.pipeline import prepare_dataset
    from jobs.store_output import append_on_store, output_place, prepare_on_store

    frame = None
    if isinstance(source, (str, Path)):
        run = with_input(run, source)
    else:
        frame = source
    spark = spark or (frame.sparkSession if frame is not None else None)
    master = spark.conf.get("spark.master", None) if spark is not None else None
    target = out if out is not None else Path("prepared") / run.name
    _check_append(append, append_to, history)
    place = output_place(target, staging=staging, master=master)
    earlier = _earlier_days(run, history) if append is not None else None
    if spark is None:
        _check_places(run, earlier, master)
    if isinstance(place, StorePath) and append is not None:
        return append_on_store(
            run, place, append, staging, frame=frame, spark=spark, into=append_to, earlier=earlier
        )
    if isinstance(place, StorePath):
        return prepare_on_store(run, place, staging, frame=frame, spark=spark)
    if append is None:
        prepared = prepare_dataset(run, place, frame=frame, spark=spark)
    else:
        prepared = append_rows(run, place, append, frame=frame, spark=spark, into=append_to, earlier=earlier)
    return Dataset(prepared.path, prepared.manifest, prepared.report_text, prepared.seconds)


def check_request(
    run: RunConfig,
    out: str | Path | None = None,
    *,
    source: str | Path | None = None,
    append: Literal["frozen", "grow"] | None = None,
    append_to: Literal["train", "valid", "test"] | None = None,
    history: str | Path | Sequence[str | Path] | None = None,
    staging: str | Path | None = None,
    master: str | None = None,
) -> None:
    """Refuse what the config and the places alone tell of a `prepare`: before Spark starts.

    Args:
        run: the config.
        out: see `prepare`, like `append` and `staging`.
        source: as above.
        append: as above.
        append_to: as above.
        history: as above.
        staging: as above.
        master: Spark master, where it is known.

    Raises:
        ConfigError, DataError, StoreError: see `prepare`.
    """
    from jobs.preparation.appendable import appended_to
    from jobs.preparation.commit import output_folder
    from jobs.preparation.pipeline import check_run
    from jobs.store_output import output_place

    target = out if out is not None else Path("prepared") / run.name
    _check_append(append, append_to, history)
    place = output_place(target, staging=staging, master=master)
    check_run(run)
    run = with_input(run, source) if source is not None else run
    earlier = _earlier_days(run, history)
    if append is not None:
        appended_to(run, target, append_to, earlier)
    elif not isinstance(place, StorePath):
        output_folder(place)
    _check_places(run, earlier, master)


def train(
    run: RunConfig,
    data: Dataset | str | Place,
    cluster: Cluster | None = None,
    layout: Plan | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = True,
    replan: bool = False,
    show_progress: bool = True,
) -> TrainResult:
    """Train a run; an unfinished run in the same folder goes on from its newest checkpoint.

    Args:
        run: the config.
        data: prepared data set: one that a verb returned, a path, or a URL such as `s3://bucket/prepared/ads`.
        cluster: ranks and how to start them; default one rank in this process.
        layout: plan to use; default a new one.
        out: run folder; default `runs/<name>`.
        resume: False starts anew and refuses a folder that holds checkpoints.
        replan: where `layout` is not for this run, plan again for what is there; False refuses it. The plan
            that is used lies in the run folder either way.
        show_progress: show warnings, a progress bar and an early stop on stderr.

    Raises:
        UserError: config, data and cluster do not fit each other.
        RankError: a rank failed.
    """
    from jobs.launch import torchrun_rank
    from trainer.pretrained import check_pretrained
    from trainer.pretrained_parts import trained_parts
    from trainer.seen_pairs import check_seen_pairs

    cluster, dataset = cluster or Cluster.local(), as_dataset(data)
    folder = run_folder(run, out)
    # Ranks on other hosts know no folder of this process.
    tables = {glob: table.under(run.data.root) for glob, table in run.tables.items()}
    run = run.model_copy(update={"tables": tables})
    if cluster.on == "torchrun" and torchrun_rank():
        # Rank 0 makes the run folder; the others wait for it at the meeting point.
        _launch_with_restarts(folder, run, cluster, show_progress=False)
        return TrainResult(folder.path, folder.result())
    _check_training(run, dataset, cluster)
    layout, told = layout_of(run, dataset, cluster, layout, replan=replan)
    layout.check_trainable()
    check_resumable(folder, run, dataset, resume)
    if not folder.saved_checkpoints():
        check_pretrained(run, dataset.manifest)
        trained_parts(run, dataset.manifest, folder)
    check_seen_pairs(run, dataset.manifest)
    if show_progress:
        warnings = [*told, *_step_warnings(run, dataset, cluster)]
        _say(*(f"plan: {text}" for text in layout.warnings), *(f"train: {text}" for text in warnings))
    folder.create(run, dataset.manifest, dataset.path)
    layout.save(folder.plan_file)
    with tracked(folder, run):
        _launch_with_restarts(folder, run, cluster, show_progress)
    result = folder.result()
    if show_progress and (stopped := early_stop_text(result)) is not None:
        _say(f"train: {stopped}")
    if show_progress and (skipped := result.get("rows_skipped")):
        _say(
            f"train: {skipped:,} rows lay in damaged row groups and were skipped; log/rank_*.txt names these"
        )
    return TrainResult(folder.path, result)


def evaluate(
    result: TrainResult | str | Path,
    split: str = "test",
    by: str | None = None,
    *,
    data: Dataset | str | Place | None = None,
    cluster: Cluster | None = None,
    checkpoint: str | None = None,
    on_corrupt: Literal["fail", "skip"] | None = None,
    confidence: float | None = None,
    candidates: int | Literal["all"] | None = None,
) -> Evaluation:
    """Evaluate a run on a split, each row once, and store `evaluation_<split>.json` in the run folder.

    What another data set, checkpoint or number of candidates gives is returned, but not stored.

    Args:
        result: run or run folder.
        split: `train`, `valid` or `test`.
        by: kept raw column to break the metrics down by.
        data: another data set of the same feature spec; default the run's.
        cluster: ranks to use; default one in this process.
        checkpoint: name of a checkpoint; default the run's choice (best, else last).
        on_corrupt: what to do at damaged part files; default the run's `data.on_corrupt`.
        confidence: level of confidence intervals, such as 0.95; default the run's `metrics.confidence`.
        candidates: drawn items that each target of user rows is ranked among, or `all` items; default the
            run's `metrics.candidates`.

    Raises:
        ConfigError: `candidates` is no number from 1 on, or there are no user rows whose targets are ranked.
        DataError: the data set lacks a column that groups its rows or that metrics are broken down by, or no
            candidate list is longer than a K of `metrics.at`.
        SpecMismatchError: the data set was prepared with another feature spec.
    """
    from trainer.measuring import SplitMeasure
    from trainer.rank_jobs import RESULT_FILE, Request

    folder = RunFolder(result.path if isinstance(result, TrainResult) else as_local(result, "a run folder"))
    name = chosen_checkpoint(folder, checkpoint)
    dataset = Dataset.open(folder.dataset()) if data is None else as_dataset(data)
    paths = (str(folder.path), name, str(dataset.path))
    run = Request(*paths, split, on_corrupt=on_corrupt, candidates=candidates).config()
    if candidates is not None:
        _check_candidates(candidates, split, dataset)
    confidence = run.metrics.confidence if confidence is None else confidence
    # What is wrong with the request is told before ranks start.
    SplitMeasure.open(run, dataset.manifest, dataset.path, split, by=by, confidence=confidence)
    with job_folder(folder, f"evaluate_{split}") as place:
        run_request(
            place,
            "evaluate_rank",
            folder,
            dataset,
            split,
            cluster or Cluster.local(),
            checkpoint=name,
            by=by,
            on_corrupt=on_corrupt,
            confidence=confidence,
            candidates=candidates,
        )
        values = read_json(place / RESULT_FILE)
        if data is None and checkpoint is None and candidates is None:
            shutil.copy(place / RESULT_FILE, folder.path / f"evaluation_{split}.json")
            log_evaluation(folder, split, values["metrics"], int(name.removeprefix("step_")))
    names = ("split", "rows", "metrics", "by", "rows_skipped", "ids")
    intervals = {name: tuple(ends) for name, ends in values.get("intervals", {}).items()}
    told = {name: values[name] for name in names}
    return Evaluation(**told, confidence=values.get("confidence"), intervals=intervals)


def _check_candidates(candidates: int | Literal["all"], split: str, dataset: Dataset) -> None:
    if candidates != "all" and candidates < 1:
        raise ConfigError(
            "no such number of items", where="candidates", got=candidates, allowed="1 and above, or `all`"
        )
    if split not in dataset.manifest.user_row_splits:
        raise ConfigError(
            "only the targets of user rows are ranked among items",
            where="candidates",
            got=candidates,
            fixes=["leave it out"],
        )


def dataset_folder(run: RunConfig, data: str | Path | None = None) -> Place:
    """Return where a run's data set lies: `data`, else `prepared/<name>`."""
    return as_place(data) if data is not None else Path("prepared") / run.name


def run_folder(run: RunConfig, out: str | Path | None = None) -> RunFolder:
    """Return a run's folder: `out`, else `runs/<name>`."""
    return RunFolder(as_local(out, "a run folder") if out is not None else Path("runs") / run.name)


def with_input(run: RunConfig, source: str | Path) -> RunConfig:
    """Return the config reading from another place: a folder replaces `data.root`, a file the source too."""
    path = Path(source)
    if path.is_file():
        return run.with_source(str(path.parent), path.name)
    return run.with_source(str(source))


def _check_places(run: RunConfig, earlier: EarlierDays | None, master: str | None) -> None:
    from jobs.preparation.source_places import check_places
    from jobs.session import finds_paths_here

    history = earlier.runs if earlier is not None else ()
    check_places(run, local=finds_paths_here(master), history=history)


def _earlier_days(
    run: RunConfig, history: DataFrame | str | Path | Sequence[str | Path] | None
) -> EarlierDays | None:
    from jobs.preparation.earlier_days import EarlierDays

    if history is None:
        return None
    if isinstance(history, (str, Path)):
        history = [history]
    if isinstance(history, Sequence):
        return EarlierDays(runs=tuple(with_input(run, each) for each in history))
    return EarlierDays(frame=history)


def _check_append(append: str | None, append_to: str | None, history: object) -> None:
    given = {"--append-to": append_to, "--history-input": history}
    for option, value in given.items():
        if append is None and value is not None:
            raise ConfigError(
                "this means nothing where no rows are added to a data set",
                where=option,
                fixes=["--append grow", f"leave {option} out"],
            )


def _check_training(run: RunConfig, dataset: Dataset, cluster: Cluster) -> None:
    from trainer.measuring import check_compared
    from trainer.modules.item_section import check_own_loss
    from trainer.registry import model_section

    check_preparation(run, dataset)
    rated = not dataset.manifest.user_row_splits and dataset.manifest.spec.tasks[0].is_rating
    check_own_loss(model_section(run.model), run.train.loss, rated=rated)
    check_layout_of(run, dataset, cluster)
    valid = dataset.manifest.splits.get("valid")
    if valid is not None and valid.rows:
        check_compared(run, dataset.manifest)
        return
    for key, what in (("early_stopping", "early stopping"), ("plateau", "a plateau")):
        if getattr(run.train, key) is not None:
            raise ConfigError(
                f"{what} needs validation rows, and the data set has none",
                where=f"train.{key}",
                fixes=["set data.split.fractions and prepare again", f"set train.{key}: null"],
            )


def _step_warnings(run: RunConfig, dataset: Dataset, cluster: Cluster) -> list[str]:
    from trainer.schedule import step_warnings

    return step_warnings(run.train, check_layout_of(run, dataset, cluster))


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)  # noqa: T201


def _launch_with_restarts(folder: RunFolder, run: RunConfig, cluster: Cluster, show_progress: bool) -> None:
    """Launch, and launch again from the newest checkpoint after a rank was lost."""
    from jobs.launch import RankError, launch
    from jobs.progress import progress_bar

    for attempt in range(run.train.max_restarts + 1):
        try:
            with progress_bar(folder.path, enabled=show_progress):
                launch(
                    "trainer.loop:train_rank",
                    folder.path,
                    on=cluster.on,
                    ranks=cluster.world_size,
                    spark=cluster.spark,
                    device=cluster.device,
                    timeout_seconds=run.train.process_group_timeout_seconds,
                )
            return
        except RankError as error:
            # A rank that raised would raise again; one that was lost may come back.
            if not error.lost or attempt == run.train.max_restarts:
                raise
            time.sleep(1.0)
