"""`remap`: a start for a new run from what another run has learnt, on other vocabularies or larger tables."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.planning import as_dataset, check_preparation
from jobs.rank_requests import chosen_checkpoint
from jobs.results import Dataset, TrainResult
from trainer.config import RunConfig
from trainer.errors import ConfigError, DataError
from trainer.run_folder import STATE_FILE, RunFolder, write_json
from trainer.schema import Manifest
from trainer.storage import Place, as_local

if TYPE_CHECKING:
    from trainer.remapping import RowOrigins, TablePair


@dataclass(frozen=True)
class TableRows:
    """What became of a table.

    Attributes:
        table: its name.
        kept: values, buckets of a hash, or ids in a slot, that keep their row's weights and optimizer state.
        new: those that have a fresh row.
        dropped: those whose row is gone.
    """

    table: str
    kept: int
    new: int
    dropped: int


@dataclass(frozen=True)
class Remapped:
    """A run folder that training starts from.

    Attributes:
        path: the run folder.
        source: run that was remapped.
        checkpoint: its checkpoint.
        tables: what became of each.
        warnings: what is fresh, or not as it was, against expectation.
    """

    path: Path
    source: Path
    checkpoint: str
    tables: tuple[TableRows, ...]
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the `--json` form."""
        return {
            "run": str(self.path),
            "from": str(self.source),
            "checkpoint": self.checkpoint,
            "tables": [asdict(table) for table in self.tables],
            "warnings": list(self.warnings),
        }

    def text(self) -> str:
        """Return the result for people."""
        width = max(len(table.table) for table in self.tables)
        lines = [
            f"{self.source} ({self.checkpoint}) -> {self.path}",
            f"{'rows':<{width}} {_columns('kept', 'new', 'dropped')}",
        ]
        lines += [
            f"{t.table:<{width}} {_columns(*(f'{n:,}' for n in (t.kept, t.new, t.dropped)))}"
            for t in self.tables
        ]
        return "\n".join(lines)


def _columns(*texts: str) -> str:
    return " ".join(f"{text:>15}" for text in texts)


def remap(
    result: TrainResult | str | Path,
    run: RunConfig,
    data: Dataset | str | Place,
    out: str | Path | None = None,
    *,
    checkpoint: str | None = None,
    trained_on: str | Place | None = None,
) -> Remapped:
    """Make a run folder from whose step 0 `train` goes on with what another run has learnt.

    Rows of tables are found by value, or by id where the table has `ids`, with their optimizer state. The
    dense part and its optimizer are copied. The run that is read stays as it is.

    Args:
        result: run to read, or its folder.
        run: config of the new run.
        data: its data set, prepared with the features of the old one.
        out: folder of the new run; default `runs/<name>`.
        checkpoint: name of a checkpoint of the old run; default the run's choice (best, else last).
        trained_on: where the data set of the old run lies, if it was moved.

    Raises:
        CheckpointError: there is no such checkpoint, or it is of other tables or parameters.
        ConfigError: the new run has another kind of optimizer.
        DataError: the new run's folder exists, or a vocabulary is gone.
        SpecMismatchError: the data set has other features.
    """
    from jobs.preparation.commit import FolderKind, staged_folder

    dataset = as_dataset(data)
    folder = RunFolder(result.path if isinstance(result, TrainResult) else as_local(result, "a run folder"))
    target = as_local(out if out is not None else Path("runs") / run.name, "a run folder").absolute()
    if target.exists():
        raise DataError(
            "the folder of the new run exists",
            where=str(target),
            fixes=["choose another --out", "delete it yourself"],
        )
    name = chosen_checkpoint(folder, checkpoint)
    check_preparation(run, dataset)
    _check_optimizers(folder.config(), run)
    job = _Remapping(folder, name, run, dataset, trained_on)
    with staged_folder(target, FolderKind("config.yaml", "a run folder")) as staging:
        rows = job.write(RunFolder(staging))
    return Remapped(target, folder.path, name, rows, tuple(job.warnings))


def _check_optimizers(old: RunConfig, new: RunConfig) -> None:
    for key in ("embedding_optimizer", "dense_optimizer"):
        was, now = getattr(old.train, key).name, getattr(new.train, key).name
        if was != now:
            raise ConfigError(
                "the state of one optimizer is of no use to another",
                where=f"train.{key}.name",
                got=now,
                allowed=was,
                fixes=[f"train.{key}.name: {was}"],
            )


class _Remapping:
    """A checkpoint, and what it is to be remapped to; checked."""

    def __init__(
        self,
        folder: RunFolder,
        checkpoint: str,
        run: RunConfig,
        dataset: Dataset,
        trained_on: str | Place | None,
    ) -> None:
        from trainer.assembly import build_task
        from trainer.remapping import check_dense, check_tables
        from trainer.stored_tensors import StoredTensors

        self._run, self._dataset = run, dataset
        self._checkpoint = folder.checkpoints / checkpoint
        manifest = folder.manifest()
        what = "a data set whose vocabularies are compared"
        self._old = manifest.spec, as_local(trained_on or folder.dataset(), what)
        self._new = dataset.manifest.spec, as_local(dataset.path, what)
        self.warnings = _checked_features(manifest, dataset)
        _, old_inputs = build_task(folder.config(), manifest, "meta")
        task, inputs = build_task(run, dataset.manifest, "meta")
        where = str(self._checkpoint)
        self._tables = check_tables(old_inputs.tables, inputs.tables, where)
        self._stored = StoredTensors(self._checkpoint)
        check_dense(self._stored, {name: t.shape for name, t in task.state_dict().items()}, where)

    def write(self, folder: RunFolder) -> tuple[TableRows, ...]:
        """Write config, manifest, environment, and the checkpoint of step 0."""
        from trainer.checkpoint import Progress, checkpoint_path, read_progress
        from trainer.remapping import write_remapped

        run, dataset = self._run, self._dataset
        folder.create(run, dataset.manifest, dataset.path)
        target = checkpoint_path(folder, 0)
        target.mkdir(parents=True)
        told = write_remapped(self._stored, target, self._tables, self._origins, run.seed)
        shutil.copy(folder.config_file, target)
        before = read_progress(self._checkpoint)
        source = {"checkpoint": str(self._checkpoint.absolute()), "step": before.step}
        state = {
            "progress": asdict(Progress(earlier_steps=before.step + before.earlier_steps)),
            "spec_hash": dataset.manifest.spec.hash,
            "config": run.as_dict(),
            "remapped_from": source,
        }
        write_json(target / STATE_FILE, state)
        return tuple(
            TableRows(name, told[name].kept, told[name].new, told[name].dropped) for name in self._tables
        )

    def _origins(self, table: str) -> RowOrigins:
        from jobs.row_origins import row_origins
        from trainer.remapping import ids_moved

        pair: TablePair = self._tables[table]
        if pair.new.ids is not None:
            return ids_moved(self._stored, pair)
        found, warning = row_origins(pair, self._old, self._new)
        self.warnings += [warning] if warning else []
        return found


def _checked_features(manifest: Manifest, dataset: Dataset) -> list[str]:
    from jobs.row_origins import check_features

    return check_features(manifest.spec, dataset.manifest.spec, str(dataset.path))
