"""Runs a job of `trainer.rank_jobs` on ranks, in a folder of its own inside the run folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from jobs.cluster import Cluster
from jobs.ranks.verdict import RankError
from jobs.results import Dataset
from trainer.errors import CheckpointError, UserError
from trainer.run_folder import STATE_FILE, RunFolder


def chosen_checkpoint(folder: RunFolder, name: str | None) -> str:
    """Return the checkpoint to use: the named one, else the run's choice.

    Raises:
        CheckpointError: no complete checkpoint has that name.
        DataError: none is named and the run has not finished.
    """
    name = name or str(folder.result()["checkpoint"])
    if not (folder.checkpoints / name / STATE_FILE).exists():
        saved = folder.saved_checkpoints()
        raise CheckpointError(
            "no such checkpoint",
            where=str(folder.checkpoints / name),
            allowed=saved or "none is saved yet",
            fixes=[] if saved else ["go on with the run: shardrec train CONFIG --resume"],
        )
    return name


@contextmanager
def job_folder(folder: RunFolder, name: str) -> Iterator[Path]:
    """Make a folder for one job; it goes when the job ends, and stays, with its logs, when a rank failed."""
    parent = folder.path / "jobs"
    try:
        parent.mkdir(exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f"{name}_", dir=parent))
    except OSError as error:
        raise UserError(
            f"the run folder cannot be written: {error.strerror}", where=str(folder.path)
        ) from error
    with ExitStack() as leaving:
        leaving.callback(shutil.rmtree, place, ignore_errors=True)
        try:
            yield place
        except RankError:  # It names the logs.
            leaving.pop_all()
            raise


def run_request(
    place: Path,
    job: str,
    folder: RunFolder,
    dataset: Dataset,
    split: str,
    cluster: Cluster,
    *,
    checkpoint: str,
    by: str | None = None,
    on_corrupt: Literal["fail", "skip"] | None = None,
    confidence: float | None = None,
    options: Mapping[str, Any] | None = None,
    candidates: int | Literal["all"] | None = None,
) -> None:
    """Run a function of `trainer.rank_jobs`, or a `module:function`, on a split; its files are in `place`.

    Raises:
        SpecMismatchError: the data set was prepared with another feature spec.
        UserError: ranks, rows and lanes do not fit each other.
        RankError: a rank failed.
    """
    from jobs.launch import launch, refuse_outer_torchrun
    from jobs.planning import check_layout_of, plan
    from trainer.assembly import scoring_config
    from trainer.rank_jobs import PLAN_FILE, Request

    refuse_outer_torchrun(cluster.on)
    run, manifest = folder.config(), folder.manifest()
    manifest.require_spec(dataset.manifest.spec, str(dataset.path))
    dataset.manifest.split(split)
    check_layout_of(run, dataset, cluster, split)
    paths = (str(folder.path.absolute()), checkpoint, str(dataset.path.absolute()))
    Request(*paths, split, by, on_corrupt, confidence, dict(options or {}), candidates).save(place)
    layout = plan(scoring_config(run, cluster.device), Dataset(folder.dataset(), manifest), cluster)
    layout.save(place / PLAN_FILE)
    launch(
        job if ":" in job else f"trainer.rank_jobs:{job}",
        place,
        on=cluster.on,
        ranks=cluster.world_size,
        spark=cluster.spark,
        device=cluster.device,
        timeout_seconds=run.train.process_group_timeout_seconds,
        saves=False,
    )
