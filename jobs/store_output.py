"""`prepare` to a store: the data set is made in a folder that Spark reaches, and copied from there."""

from __future__ import annotations

import hashlib
import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.copying import copy_dataset, put_larger
from jobs.preparation.appendable import appended_to
from jobs.preparation.appending import Mode, append_rows
from jobs.preparation.commit import output_folder, restore, sibling
from jobs.preparation.failures import named_failures
from jobs.preparation.pipeline import Prepared, prepare_dataset
from jobs.results import Dataset
from jobs.session import spark_session
from jobs.store_target import check_store_target
from trainer.config import RunConfig
from trainer.errors import ShardrecError, UserError
from trainer.schema import MANIFEST_FILE, SplitName
from trainer.storage import Place, StorePath, as_place, read_text

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from jobs.preparation.earlier_days import EarlierDays

_PREFIX = "shardrec-"


def output_place(
    out: str | Place,
    *,
    staging: str | Path | None = None,
    master: str | None = None,
) -> Place:
    """Return where a data set is to be put, with all checked that needs no Spark.

    Args:
        out: folder or URL.
        staging: folder to make the data set in before it is copied to a URL.
        master: Spark master, where it is known.

    Raises:
        UserError: `staging` is missing or means nothing.
        DataError: something else than a data set is at the URL.
        StoreError: the store cannot be reached or refuses access.
    """
    place = as_place(out)
    if isinstance(place, Path):
        if staging is not None:
            raise UserError(
                "a data set in a folder is made beside it, so there is nothing to stage",
                where="--staging",
                got=str(staging),
                fixes=["leave --staging out", "--out s3://BUCKET/PATH"],
            )
        return place
    _check_staging(staging, master)
    check_store_target(place)
    return place


def prepare_on_store(
    run: RunConfig,
    target: StorePath,
    staging: str | Path | None,
    *,
    frame: DataFrame | None,
    spark: SparkSession | None,
) -> Dataset:
    """Prepare a data set in a new folder and copy it to a store; the folder stays where the copying fails.

    Args:
        run: the run config.
        target: URL, as `output_place` returned it.
        staging: folder to make the new one in; by default the system's for temporary files.
        frame: raw rows to take instead of `data.source`.
        spark: session; by default the active one, or a new local one.

    Raises:
        ConfigError, DataError, UserError: see `prepare_dataset`; or `staging` is missing on a cluster.
        StoreError: the store cannot be reached, refuses access, or keeps failing.
    """

    def make(folder: Path, spark: SparkSession) -> Prepared:
        return prepare_dataset(run, folder, frame=frame, spark=spark)

    return _staged(target, staging, spark, make, copy_dataset)


def append_on_store(
    run: RunConfig,
    target: StorePath,
    mode: Mode,
    staging: str | Path | None,
    *,
    frame: DataFrame | None,
    spark: SparkSession | None,
    into: SplitName | None,
    earlier: EarlierDays | None,
) -> Dataset:
    """Add rows to a data set on a store: a copy of it in a new folder gets them, and then takes its place.

    The data set on the store stays whole until then, whatever happens.

    Args:
        run: the run config, whose source holds the new rows alone.
        target: URL of the data set.
        mode: see `append_rows`, like `into` and `earlier`.
        staging: see `prepare_on_store`, like `frame` and `spark`.
        frame: as above.
        spark: as above.
        into: as above.
        earlier: as above.

    Raises:
        ConfigError, DataError, UserError: see `append_rows`; or `staging` is missing on a cluster.
        StoreError: the store cannot be reached, refuses access, or keeps failing; or the data set there was
            changed meanwhile.
    """
    appended_to(run, target, into, earlier)  # before all of it is copied
    text = read_text(target / MANIFEST_FILE)

    def make(folder: Path, spark: SparkSession) -> Prepared:
        copy_dataset(target, folder)
        return append_rows(run, folder, mode, frame=frame, spark=spark, into=into, earlier=earlier)

    def put(folder: Path, target: StorePath) -> Dataset:
        return put_larger(folder, target, text)

    return _staged(target, staging, spark, make, put)


def _staged(
    target: StorePath,
    staging: str | Path | None,
    spark: SparkSession | None,
    make: Callable[[Path, SparkSession], Prepared],
    put: Callable[[Path, StorePath], Dataset],
) -> Dataset:
    """Make a data set in a new folder, and put it on the store."""
    start = time.perf_counter()
    spark = spark or spark_session("shardrec prepare")
    _check_staging(staging, spark.conf.get("spark.master", None))
    parent = _new_folder(staging, target)
    prepared = None
    try:
        prepared = make(parent / "data", spark)
        copy = put(prepared.path, target)
    except BaseException as error:
        if prepared is None:
            shutil.rmtree(parent, ignore_errors=True)
            raise
        kept = _kept(parent) / prepared.path.name
        command = f"shardrec copy {shlex.quote(str(kept))} {shlex.quote(str(target))}"
        raise _with_fix(
            error, f"the prepared data set is kept; this copies what is left: {command}"
        ) from error
    shutil.rmtree(parent, ignore_errors=True)
    return Dataset(target, copy.manifest, prepared.report_text, time.perf_counter() - start)


def _check_staging(staging: str | Path | None, master: str | None) -> None:
    if staging is not None:
        output_folder(staging, "--staging")
    elif master is not None and not master.startswith("local"):
        raise UserError(
            "on a cluster, a data set for a store is first made in a folder that all executors reach",
            where="--staging",
            got=f"none, with the Spark master {master}",
            fixes=["--staging FOLDER, on a file system that driver and executors share", "--master local[*]"],
        )


def _new_folder(staging: str | Path | None, target: StorePath) -> Path:
    """Make a folder, and delete those that killed runs for the same URL have left."""
    parent = Path(tempfile.gettempdir()) if staging is None else output_folder(staging, "--staging")
    url = hashlib.sha256(str(target).encode()).hexdigest()[:12]
    with named_failures(str(parent)):
        parent.mkdir(parents=True, exist_ok=True)
        restore(parent / f"{_PREFIX}{url}")
        folder = sibling(parent / f"{_PREFIX}{url}", "tmp")
        folder.mkdir(mode=0o700)
        if staging is not None:
            folder.chmod(parent.stat().st_mode & 0o777)  # Executors may run as other users.
    return folder


def _kept(folder: Path) -> Path:
    """Give a folder a name under which the next run does not delete it."""
    name = folder.with_name(f"{_PREFIX}kept-{secrets.token_hex(4)}")
    with suppress(OSError):
        return folder.rename(name)
    return folder


def _with_fix(error: BaseException, fix: str) -> BaseException:
    """Return the error with one more way out, as the first one."""
    if isinstance(error, ShardrecError):
        rest = {name: getattr(error, name) for name in ("where", "got", "allowed", "also")}
        return type(error)(error.what, fixes=[fix, *error.fixes], **rest)
    if isinstance(error, KeyboardInterrupt):
        return KeyboardInterrupt(fix)
    if isinstance(error, OSError):
        return UserError(error.strerror or str(error), where=str(error.filename or ""), fixes=[fix])
    return ShardrecError(f"the data set could not be copied: {error}", fixes=[fix])
